"""Every example of `--help` that shows something, typed as it stands on the stack of the demo.

Each runs through a pipe and in a terminal of 80 columns. Ids and secrets are whole in both, and
what an exit code means is what the help says. Examples that change something are typed where their
subject is tested; a fast test parses all of them.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from foundry.cli.help import list_examples
from foundry.cli.output.cells import SHORT_ID_CHARS
from tests.cli.test_help import COMMANDS
from tests.fakes.terminal import COLUMNS
from tests.integration.conftest import Stack

pytestmark = pytest.mark.engine

# Commands that only show, with the exit code of their examples on this stack.
SHOWING = {
    "status": 0,
    "logs": 0,
    "config show": 0,
    "config check": 0,
    "datasets list": 0,
    "datasets versions": 0,
    "datasets show": 0,
    "datasets rows": 0,
    "models list": 0,
    "models show": 0,
    "models versions": 0,
    "models artifacts": 0,
    "models metrics": 0,
    "models lineage": 0,
    "models compare": 0,
    "jobs list": 0,
    "jobs show": 0,
    "jobs watch": 0,
    "jobs logs": 0,
    "jobs metrics": 0,
    # The newest job is a fine-tuning that has succeeded.
    "jobs rounds": 6,
    "jobs cancel": 6,
    "jobs resume": 6,
    "endpoints list": 0,
    "endpoints show": 0,
    "endpoints revisions": 0,
    "budsim list": 0,
    "budsim catalogue": 0,
    "budsim outcomes": 0,
    "budsim advice": 0,
    "budsim models": 0,
    "keys list": 0,
    "keys bootstrap": 6,
}
# As many as the smallest machine that is tested has cores.
_AT_ONCE = 2
# One that follows has no end in a terminal.
_ENDLESS = "foundry logs ray --follow"
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]+")
_WHOLE = re.compile(
    rf"[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}(-[0-9]+)?|.{{{SHORT_ID_CHARS}}}"
)


def _list_walk() -> Iterator[tuple[str, int]]:
    for name, code in SHOWING.items():
        examples = list_examples(COMMANDS[tuple(name.split())].epilog)
        yield from ((example, code) for example in examples if example != _ENDLESS)


def assert_ids_whole(text: str) -> None:
    """Every id is there as a whole, or as short as a table shows it."""
    assert [found for found in _ID.findall(text) if not _WHOLE.fullmatch(found)] == [], text


def test_every_example_that_shows_something(stack: Stack) -> None:
    def check(example: str, code: int) -> None:
        piped = stack.shell(f"{example} | cat")
        assert piped.returncode == code, f"{example}\n{piped.stdout}\n{piped.stderr}"
        assert_ids_whole(piped.stdout)
        assert not re.search(r"\x1b", piped.stdout), example
        assert "Traceback" not in piped.stderr

    # They change nothing, and most of their time is the start of a process.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for checked in [pool.submit(check, *step) for step in _list_walk()]:
            checked.result()


@pytest.mark.parametrize(
    "example",
    [
        "foundry status",
        "foundry jobs list",
        "foundry jobs show last",
        "foundry models list",
        "foundry models lineage support-bot@production",
        "foundry datasets versions support",
        "foundry budsim catalogue",
        "foundry keys list",
    ],
)
def test_what_is_looked_at_most_fits_80_columns(stack: Stack, example: str) -> None:
    shown = stack.terminal(example)
    lines = shown.splitlines()
    too_long = [line for line in lines if len(line) > COLUMNS and " " in line.strip()]
    assert too_long == []
    assert_ids_whole(shown)


@pytest.mark.parametrize("piped", [True, False])
def test_a_new_key_is_whole_and_works(stack: Stack, piped: bool) -> None:
    create = "foundry keys create walk --role viewer"
    shown = stack.shell(f"{create} | cat").stdout if piped else stack.terminal(create)
    found = re.search(r"^key +(fk_live_\S+)$", shown, re.MULTILINE)
    assert found is not None, shown
    listed = stack.shell(f"FOUNDRY_CLIENT__API_KEY={found[1]} foundry models list --output json")
    assert listed.returncode == 0, listed.stderr
    assert {"smollm2-135m", "support-bot"} <= {row["name"] for row in json.loads(listed.stdout)}
    key_id = found[1].split("_")[2]
    assert stack.shell(f"foundry keys revoke {key_id[:10]} --yes").returncode == 0
    again = stack.shell(f"FOUNDRY_CLIENT__API_KEY={found[1]} foundry models list")
    assert again.returncode == 4
