"""`foundry endpoints` and `foundry deploy`: what is served, and what should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from foundry.cli import session
from foundry.cli.advice import print_already
from foundry.cli.help import examples
from foundry.cli.option_groups import add_options
from foundry.cli.output.console import (
    Detached,
    Output,
    OutputOption,
    print_next,
    print_note,
    print_record,
    print_rows,
    show_activity,
)
from foundry.cli.suggestions import suggest_endpoints, suggest_models
from foundry.errors import Conflict, EngineFailed

if TYPE_CHECKING:
    from foundry.sdk import Foundry
    from foundry.serving.endpoints.schemas import EndpointOut

app = typer.Typer(add_completion=False, no_args_is_help=True)
deploy_app = typer.Typer(add_completion=False)

_REVISION_COLUMNS = ("number", "state", "replicas", "config", "reason", "created_by", "created_at")
_COLUMNS = ("name", "model", "state", "desired", "revision", "last_error", "updated_at")
Endpoint = Annotated[
    str,
    typer.Argument(
        metavar="ENDPOINT",
        help="its name, its id or the beginning of it",
        autocompletion=suggest_endpoints,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="a base, or an adapter: then its base is served", autocompletion=suggest_models
    ),
]
NameOption = Annotated[str | None, typer.Option(help="default: the base's name")]
Now = Annotated[bool, typer.Option("--now", help="cut running requests off")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="return at once")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="of the weights; default auto: as the checkpoint has them"),
]
Context = Annotated[int | None, typer.Option(help="tokens of prompt and answer together")]
Sequences = Annotated[int | None, typer.Option(help="requests that run at a time; others wait")]
Loras = Annotated[int | None, typer.Option(help="adapters that one batch may mix")]
LoraRank = Annotated[int | None, typer.Option(help="the highest rank of an adapter it serves")]
# Named as in the configuration of an endpoint.
_ENGINE = {
    "dtype": Dtype,
    "max_model_len": Context,
    "max_num_seqs": Sequences,
    "max_loras": Loras,
    "max_lora_rank": LoraRank,
}
RevisionNumber = Annotated[
    int, typer.Argument(min=1, help="as `foundry endpoints revisions` has it")
]
Timeout = Annotated[float | None, typer.Option(min=0.0, help="stop waiting after so many seconds")]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Whether to wait for the end of what was asked, and how long; None: as long as it takes."""

    wanted: bool
    timeout_s: float | None

    @classmethod
    def of(cls, no_wait: bool, timeout_s: float | None) -> _Waiting:
        """What two options say about waiting.

        Raises Conflict: a limit is given to a command that does not wait.
        """
        if no_wait and timeout_s is not None:
            raise Conflict(
                "--timeout-s would be ignored: --no-wait does not wait, so leave one of them out"
            )
        return cls(not no_wait, timeout_s)


@app.command("list", epilog=examples("foundry endpoints list"))
def list_endpoints(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List endpoints."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.endpoints.list(limit=session.choose_page_size(limit)), limit
        )
    print_rows(rows, output, columns=_COLUMNS, empty="no endpoints yet: foundry deploy MODEL")


@app.command(epilog=examples("foundry endpoints show smollm2-135m"))
def show(endpoint: Endpoint, output: OutputOption = Output.TABLE) -> None:
    """Show an endpoint."""
    with session.client() as client:
        print_record(session.record(client.endpoints.get(endpoint)), output)


@app.command(epilog=examples("foundry endpoints create smollm2-135m --max-model-len 1024"))
@add_options(_ENGINE, before="output")
def create(
    model: Model,
    name: NameOption = None,
    output: OutputOption = Output.TABLE,
    **engine: Any,
) -> None:
    """Make an endpoint without starting it."""
    with session.client() as client:
        endpoint = _create_endpoint(client, model, name, engine, deploy=False)
    print_already(endpoint)
    _print_endpoint(endpoint, output)


@app.command(epilog=examples("foundry endpoints configure smollm2-135m targets.yaml"))
def configure(
    endpoint: Endpoint,
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML: options, or performance_targets{...} and workload{...}; -: standard input"
        ),
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Say how the next deploy is to serve an endpoint, or what it must achieve."""
    from foundry.cli.files import read_mapping
    from foundry.sdk.errors import checked
    from foundry.serving.endpoints.schemas import EndpointConfigure, deploy_command

    wanted = checked(EndpointConfigure, read_mapping(file))
    with session.client() as client:
        found = client.endpoints.configure(client.endpoints.get(endpoint).id, wanted)
    print_record(session.record(found), output)
    steps = [deploy_command(found.name, found.model)]
    if found.recommendation_id is not None:
        steps.insert(0, f"foundry budsim explain {found.recommendation_id}")
    print_next(*steps, output=output)


@app.command(epilog=examples("foundry endpoints scale smollm2-135m 2"))
def scale(
    endpoint: Endpoint,
    replicas: Annotated[int, typer.Argument(min=1, help="so many serve from now on")],
    no_wait: NoWait = False,
    timeout_s: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change how many replicas serve, without restarting those that run."""
    waiting = _Waiting.of(no_wait, timeout_s)
    with session.client() as client:
        found = client.endpoints.scale(client.endpoints.get(endpoint).id, replicas)
        _settle_endpoint(client, found, "scaling", waiting, output)


@app.command(epilog=examples("foundry endpoints rollback smollm2-135m 3"))
def rollback(
    endpoint: Endpoint,
    revision: Annotated[int, typer.Argument(min=1, help="of `foundry endpoints revisions`")],
    no_wait: NoWait = False,
    timeout_s: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run the configuration of an earlier revision again. What serves goes on until it answers."""
    waiting = _Waiting.of(no_wait, timeout_s)
    with session.client() as client:
        found = client.endpoints.rollback(client.endpoints.get(endpoint).id, revision)
        _settle_endpoint(client, found, "rolling back", waiting, output)


@app.command(epilog=examples("foundry endpoints revisions smollm2-135m"))
def revisions(
    endpoint: Endpoint,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List an endpoint's revisions, newest first."""
    with session.client() as client:
        found = client.endpoints.get(endpoint)
        rows = session.fetch_rows(
            client.endpoints.revisions(found.id, limit=session.choose_page_size(limit)), limit
        )
    print_rows(rows, output, columns=_REVISION_COLUMNS, empty=f"{found.name} was never deployed")


@app.command(epilog=examples("foundry endpoints diff smollm2-135m 1 2"))
def diff(
    endpoint: Endpoint,
    before: RevisionNumber,
    after: RevisionNumber,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the options in which two revisions differ."""
    with session.client() as client:
        found = client.endpoints.diff(client.endpoints.get(endpoint).id, before, after)
    rows = [session.record(change) for change in found.changes]
    same = f"revisions {before} and {after} are configured alike"
    print_rows(rows, output, columns=("field", "before", "after"), empty=same)


@app.command(epilog=examples("foundry endpoints stop smollm2-135m"))
def stop(
    endpoint: Endpoint,
    now: Now = False,
    no_wait: NoWait = False,
    timeout_s: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let an endpoint finish its requests and release its accelerator."""
    waiting = _Waiting.of(no_wait, timeout_s)
    with session.client() as client:
        found = client.endpoints.stop(client.endpoints.get(endpoint).id, now=now)
        _settle_endpoint(client, found, "stopping", waiting, output)


@app.command(epilog=examples("foundry endpoints delete smollm2-135m --yes"))
def delete(
    endpoint: Endpoint,
    yes: session.YesOption = False,
    now: Now = False,
    no_wait: NoWait = False,
    timeout_s: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop an endpoint and forget it. Its model stays."""
    waiting = _Waiting.of(no_wait, timeout_s)
    with session.client() as client:
        found = client.endpoints.get(endpoint)
        session.confirm(f"delete endpoint {found.name} ({found.model})", yes)
        found = client.endpoints.delete(found.id, now=now)
        _settle_endpoint(client, found, "deleting", waiting, output)


@deploy_app.command(epilog=examples("foundry deploy support-bot@production"))
@add_options(_ENGINE, before="no_wait")
def deploy(
    model: Model,
    name: NameOption = None,
    no_wait: NoWait = False,
    timeout_s: Timeout = None,
    output: OutputOption = Output.TABLE,
    **engine: Any,
) -> None:
    """Serve a model, and wait until it answers. Adapters of a running base need no deploy."""
    waiting = _Waiting.of(no_wait, timeout_s)
    with session.client() as client:
        endpoint = _create_endpoint(client, model, name, engine, deploy=True)
        _settle_endpoint(client, endpoint, "deploying", waiting, output)
    # A name is the base's; an adapter is asked for by its own.
    is_base = endpoint.model.partition("@")[0] == model.partition("@")[0]
    step = f'foundry chat {name if name and is_base else model} "Hello"'
    if no_wait and endpoint.note is None:
        step = f"foundry endpoints show {endpoint.name}"
    print_next(step, output=output)


def _print_endpoint(endpoint: EndpointOut, output: Output) -> None:
    record = session.record(endpoint)
    if output is Output.TABLE:
        # Told beside the table.
        record.pop("note")
    print_record(record, output)


def _create_endpoint(
    client: Foundry,
    model: str,
    name: str | None,
    options: Mapping[str, str | int | None],
    *,
    deploy: bool,
) -> EndpointOut:
    from foundry.sdk.errors import checked
    from foundry.serving.endpoints.schemas import EngineConfig

    wanted = {option: value for option, value in options.items() if value is not None}
    config = checked(EngineConfig, wanted)
    return client.endpoints.create(model, name=name, config=config, deploy=deploy)


def _settle_endpoint(
    client: Foundry,
    endpoint: EndpointOut,
    doing: str,
    waiting: _Waiting,
    output: Output,
) -> None:
    """Say what was so already, wait for the end of what was asked, and print the endpoint.

    Raises:
        EngineFailed: it did not start.
        Detached: the user has interrupted.
    """
    print_already(endpoint)
    if waiting.wanted:
        try:
            with show_activity(f"{doing} {endpoint.model}") as say:
                endpoint = client.endpoints.wait(
                    endpoint.id,
                    lambda seen: say(_describe_progress(seen)),
                    timeout_s=waiting.timeout_s,
                )
        except KeyboardInterrupt:
            print_note(f"\ndetached; {doing} goes on: foundry endpoints show {endpoint.name}")
            raise Detached from None
    record = session.record(endpoint)
    shown = record if output is Output.JSON else {name: record[name] for name in _COLUMNS}
    print_record(shown, output)
    if waiting.wanted and endpoint.state == "FAILED":
        raise EngineFailed(f"{endpoint.model} did not start: {endpoint.last_error or 'no reason'}")


def _describe_progress(endpoint: EndpointOut) -> str:
    detail = endpoint.progress.get("message") or endpoint.progress.get("phase")
    state = f"{endpoint.model}: {endpoint.state.lower()}"
    return f"{state}, {detail}" if detail else state
