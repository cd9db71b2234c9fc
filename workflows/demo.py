"""`make demo`: from nothing to a fine-tuned adapter that answers over the OpenAI API.

Every step finds what an earlier run left and goes on from there, so it may be stopped and repeated.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
from rich.console import Console
from rich.table import Table

from foundry.cli.jobs.following import show_progress
from foundry.cli.output.console import choose_exit_code, print_error, show_activity
from foundry.config import Settings, load_settings
from foundry.engines.training.config import SftConfig
from foundry.errors import FoundryError
from foundry.execution.jobs.domain import BUNDLED
from foundry.execution.jobs.schemas import JobOut
from foundry.infra.embedded import stack
from foundry.infra.embedded.file_modes import close_owned_paths, describe_paths
from foundry.infra.embedded.home_lock import lock_home
from foundry.sdk import Foundry
from foundry.serving.endpoints.schemas import EndpointOut
from workflows.demo_data.make import SYSTEM

BASE = "smollm2-135m"
DATASET = "support"
MODEL = "support-bot"
ALIAS = "production"
CONFIG = SftConfig(
    max_steps=70, batch_size=8, micro_batch_size=8, lr=2e-3, warmup_ratio=0.05, max_seq_len=256
)
_DATA = Path(__file__).parent / "demo_data" / "support_commands.jsonl"
_MAX_TOKENS = 40
_OWN_ROWS = (
    ("What is our slogan?", "Made here, and it stays here."),
    ("Who is on call?", "Mei, extension 217."),
)


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# What to type next; a test types it.
_NEXT = (
    "Next:",
    "  . .venv/bin/activate",
    f'  foundry chat {MODEL}@{ALIAS} --system "{SYSTEM}" "Refund 12 euros on order 4711."',
    f"  foundry models lineage {MODEL}@{ALIAS}",
    "  foundry jobs list",
    "",
    "Teach it your own, a line for each example; ten are enough to see it learn:",
    "  cat > mine.jsonl <<'END'",
    *(f"  {json.dumps({'messages': _turns(*row)})}" for row in _OWN_ROWS),
    "END",
    "  foundry datasets add mine mine.jsonl --eval-fraction 0",
    f"  foundry train sft --base {BASE} --dataset mine --name my-bot --epochs 20 --lr 2e-3",
    '  foundry chat my-bot "What is our slogan?" --temperature 0',
    "",
    "`make down` stops everything; `make demo` goes on from where it was.",
)
_CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Score:
    """Exact matches on the held-out prompts, both asked through `/v1`."""

    model: str
    matches: int
    prompts: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the prompts, 0 to 1."""
        return self.matches / self.prompts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo made and measured."""

    base: Score
    adapter: Score
    seconds: float


class Demo:
    """The six steps of `make demo`, each of which finds what an earlier run has left."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console

    def run(self) -> Outcome:
        """Bring up, fine-tune, deploy and compare.

        Raises:
            FoundryError: a step failed; repeating the demo goes on from there.
        """
        began = time.monotonic()
        self._announce_step(1, "Start PostgreSQL, Ray and the HTTP applications")
        # Whoever types `make demo` wants this checkout to run, so nobody is asked.
        if closed := close_owned_paths(self._settings.home):
            told = describe_paths(self._settings.home, closed)
            self._print_note(f"closed to other accounts: {told}")
        plan = stack.plan_up(self._settings)
        for line in plan.lines() if plan.restarts else ():
            self._print_note(line)
        stack.up(self._settings, self._print_note, plan)
        with Foundry.from_settings(self._settings) as client:
            self._announce_step(2, f"Import {BASE}, the bundled base model")
            self._follow_to_end(client, client.jobs.submit_import(name=BASE, source=BUNDLED))
            self._announce_step(3, f"Add the dataset {DATASET}: free text → strict JSON commands")
            dataset = client.datasets.add(DATASET, _DATA)
            self._print_note(f"{dataset.train_rows} rows to train on, {dataset.eval_rows} held out")
            self._announce_step(4, f"Fine-tune a LoRA of {BASE} as a Ray job")
            job = client.jobs.submit_sft(
                name=MODEL, base=BASE, dataset=dataset.reference, config=CONFIG
            )
            made = self._follow_to_end(client, job)
            self._point_alias(client, str((made.result or {})["version_id"]))
            # Not beside the training: on two cores both would take longer.
            self._announce_step(5, f"Deploy {BASE} with vLLM: it serves {MODEL}@{ALIAS} as well")
            self._wait_for_engine(client, client.endpoints.create(model=BASE, deploy=True))
            rows = client.datasets.rows(DATASET, dataset.number, split="eval", limit=100).data
        self._announce_step(6, f"Ask both the {len(rows)} held-out prompts through /v1")
        base, adapter = self._score_model(BASE, rows), self._score_model(f"{MODEL}@{ALIAS}", rows)
        return Outcome(base, adapter, time.monotonic() - began)

    def _announce_step(self, number: int, text: str) -> None:
        self._console.print(f"[bold cyan]{number}/6[/] [bold]{text}[/]")

    def _print_note(self, text: str) -> None:
        self._console.print(f"    {text}", style="dim", highlight=False, soft_wrap=True)

    def _follow_to_end(self, client: Foundry, job: JobOut) -> JobOut:
        """Follow a job with a progress bar until it has succeeded."""
        self._print_note(f"job {job.id}")
        with show_progress(self._console) as show:
            ended = client.jobs.wait(job.id, on_update=show)
        if ended.state != "SUCCEEDED":
            reason = (ended.error or {}).get("message", ended.state.lower())
            raise FoundryError(f"job {ended.id} did not succeed: {reason}")
        self._print_note(f"{(ended.result or {}).get('model')} is in the registry")
        return ended

    def _point_alias(self, client: Foundry, version_id: str) -> None:
        """Point @production at the version, whatever it pointed at before."""
        model = client.models.get(MODEL)
        current = {alias.name: alias.version_id for alias in model.aliases}.get(ALIAS)
        if str(current) == version_id:
            return
        versions = {str(row.id): row.version for row in client.models.versions(MODEL).data}
        client.models.set_alias(
            MODEL,
            ALIAS,
            version=versions[version_id],
            expected_version_id=current,
            reason="make demo",
        )

    def _wait_for_engine(self, client: Foundry, endpoint: EndpointOut) -> None:
        with show_activity("the engine starts (a minute or two on CPU)"):
            endpoint = client.endpoints.wait(endpoint.id)
        if endpoint.state != "RUNNING":
            raise FoundryError(f"endpoint {endpoint.name}: {endpoint.last_error}")
        self._print_note(f"endpoint {endpoint.name} is RUNNING")

    def _score_model(self, model: str, rows: Sequence[Mapping[str, object]]) -> Score:
        client = openai.OpenAI(
            base_url=f"{self._settings.base_url}/v1", api_key=read_api_key(self._settings)
        )
        began = time.monotonic()
        with client, ThreadPoolExecutor(_CONCURRENCY) as pool:
            matches = sum(pool.map(lambda row: _answer_matches(client, model, row), rows))
        score = Score(model, matches, len(rows), time.monotonic() - began)
        self._print_note(f"{model}: {score.matches} of {score.prompts} in {score.seconds:.0f} s")
        return score


def _answer_matches(client: openai.OpenAI, model: str, row: Mapping[str, object]) -> bool:
    messages = row["messages"]
    assert isinstance(messages, list)
    answer = client.chat.completions.create(
        model=model, messages=messages[:-1], max_tokens=_MAX_TOKENS, temperature=0
    )
    expected: str = messages[-1]["content"]
    return (answer.choices[0].message.content or "").strip() == expected


def read_api_key(settings: Settings) -> str:
    """The administrator's key that `up` has left."""
    document = json.loads(stack.credentials_file(settings.home).read_text())
    return str(document["api_key"])


def print_report(console: Console, settings: Settings, outcome: Outcome) -> None:
    """The table of scores, and what to type next."""
    table = Table(title="Exact match on held-out prompts")
    table.add_column("model")
    table.add_column("exact match", justify="right")
    table.add_column("share", justify="right")
    for score in (outcome.base, outcome.adapter):
        table.add_row(score.model, f"{score.matches} / {score.prompts}", f"{score.share:.2f}")
    console.print(table)
    url, key = settings.base_url, read_api_key(settings)
    question = {
        "model": f"{MODEL}@{ALIAS}",
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Unlock the account of Mei Tanaka."},
        ],
    }
    dashboard = f"http://{settings.ray.dashboard_host}:{settings.ray.dashboard_port}"
    lines = (
        f"Done in {outcome.seconds / 60:.1f} minutes.",
        "",
        f"URL        {url}/v1",
        f"API key    {key}",
        f"Dashboard  {dashboard}",
        "",
        f"curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d '{json.dumps(question)}'",
        "",
        *_NEXT,
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    console = Console()
    try:
        settings = load_settings()
        with lock_home(settings.home, "make demo", name="demo"):
            outcome = Demo(settings, console).run()
        print_report(console, settings, outcome)
    except FoundryError as error:
        print_error(error.message)
        sys.exit(choose_exit_code(error))
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "stopped; what was finished is kept. `make demo` goes on, `make down` stops all"
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
