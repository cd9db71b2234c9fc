"""`foundry config`: what the settings are, and whether they hold."""

import typer
from pydantic import SecretStr

from foundry.cli.console import Output, OutputOption, print_rows, stdout
from foundry.config import load_settings, variable_names
from foundry.governance.identity.pepper import pepper_path

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show or check the settings")


@app.command()
def show(output: OutputOption = Output.TABLE) -> None:
    """List every setting: its variable and its value now. Secrets stay hidden."""
    settings = load_settings()
    rows: list[dict[str, object]] = []
    for variable in variable_names():
        value: object = settings
        for part in variable.removeprefix("FOUNDRY_").lower().split("__"):
            value = getattr(value, part)
        shown = str(value) if isinstance(value, SecretStr) else value
        rows.append({"variable": variable, "value": shown})
    print_rows(rows, output)


@app.command()
def check() -> None:
    """Fail on an unknown or invalid FOUNDRY_* variable, and on a pepper that is not set."""
    settings = load_settings()
    pepper_path(settings)
    stdout().print(f"the settings are valid; FOUNDRY_HOME is {settings.home}", markup=False)
