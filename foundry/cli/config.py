"""`foundry config`: what the settings are, and whether they hold."""

from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

import typer

from foundry.cli.help import examples
from foundry.cli.output.console import Output, OutputOption, print_rows, stdout
from foundry.config import Settings, describe_settings, load_settings
from foundry.errors import SetupError
from foundry.governance.identity.pepper import pepper_path, read_pepper

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show or check the settings")


@app.command(epilog=examples("foundry config show --output json"))
def show(output: OutputOption = Output.TABLE) -> None:
    """List every setting: its variable, its value now, and where that comes from.

    Secrets stay hidden. Fails after the list if the settings cannot be used.
    """
    settings, problem = None, None
    try:
        settings = load_settings()
    except SetupError as error:
        # Whoever misspelled a variable looks here for the right one.
        problem = error
    rows = [asdict(setting) for setting in describe_settings(settings)]
    print_rows(rows, output, columns=("variable", "value", "source"))
    if problem is not None:
        raise problem


@app.command(epilog=examples("foundry config check"))
def check() -> None:
    """Fail with 2 on a setting that is unknown, invalid, or at odds with another or this machine.

    Checked are the variables' names and values, the pepper's file, the addresses and the ports.
    """
    settings = load_settings()
    path = pepper_path(settings)
    if settings.security.pepper_file is not None:
        read_pepper(path)
    for problem in _find_contradictions(settings):
        raise problem
    stdout().print(f"the settings are valid; FOUNDRY_HOME is {settings.home}", markup=False)


def _find_contradictions(settings: Settings) -> Iterator[SetupError]:
    # Loads what starts a stack, which `show` does not need.
    from foundry.infra.embedded.starting import list_chosen_ports

    if (url := settings.client.url) and not _is_address(url):
        yield SetupError(f"FOUNDRY_CLIENT__URL must be like http://host:port, not {url!r}")
    by_port: dict[int, str] = {}
    for _, port, variable in list_chosen_ports(settings):
        if (other := by_port.setdefault(port, variable)) != variable:
            yield SetupError(f"{other} and {variable} are both {port}: choose another for one")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
