"""What a user sees of a fleet while it trains."""

import io
from typing import Any

import pytest
from rich.console import Console

from foundry.cli.jobs import fleets
from foundry.cli.jobs.following import show_progress
from foundry.execution.jobs.schemas import JobOut
from tests.sdk.answers import fleet, job


def of(progress: dict[str, object], **fields: Any) -> JobOut:
    document = job("RUNNING", kind="diloco", progress=progress, **fields)
    return JobOut.model_validate(document)


def console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=160, highlight=False, color_system=None
    )


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_each_worker_has_a_row() -> None:
    assert fleets.list_cells(fleet()) == [
        ("w0", "node-a", "training", "4", "2.3000", "1,835", "12.3 MB", "24.6 MB"),
        ("w1", "[bold]node-b", "healing", "0", "-", "0", "0 bytes", "999 bytes"),
    ]


@pytest.mark.parametrize("workers", [None, [], ["w0"], {"w0": 1}])
def test_without_workers_there_is_nothing_to_see(workers: object) -> None:
    assert fleets.list_cells(fleet(fleet=workers)) == []
    assert fleets.make_view(fleet(fleet=workers), 80) is None


def test_a_worker_that_has_said_nothing_yet_is_shown() -> None:
    row = fleets.list_cells({"fleet": [{"member": "w2", "node": "", "state": "joining\x1b[2J"}]})
    assert row == [("w2", "-", "joining[2J", "-", "-", "-", "0 bytes", "0 bytes")]


def test_the_run_in_two_lines() -> None:
    assert fleets.describe_steps(fleet()) == "round 3, batch 24/160"
    assert fleets.describe_traffic(fleet()) == (
        "workers 2, quorum 2  commits 3  aborts 1  exchanged 36.9 MB  healing 1.5 kB"
    )
    assert fleets.describe_steps({"phase": "waiting for a node"}) == ""
    assert fleets.describe_traffic({"phase": "waiting for a node"}) == ""


def test_a_terminal_shows_the_bar_above_the_workers() -> None:
    shown = console(terminal=True)
    with show_progress(shown) as show:
        show(of({"phase": "waiting for a node"}))
        show(of(fleet()))
    # The last line switches the cursor on again.
    *_, bar, losses, headings, first, second, summary, _ = text_of(shown).splitlines()
    assert "training" in bar
    assert "round 3, batch 24/160" in bar
    assert losses.strip() == "loss 2.3457"
    assert [" ".join(line.split()) for line in (headings, first, second)] == [
        "member node state round loss tok/s sent received",
        "w0 node-a training 4 2.3000 1,835 12.3 MB 24.6 MB",
        "w1 [bold]node-b healing 0 - 0 0 bytes 999 bytes",
    ]
    assert summary.rstrip() == fleets.describe_traffic(fleet())


def test_a_narrow_terminal_shows_the_first_columns_of_each_worker() -> None:
    view = fleets.make_view(fleet(), 40)
    shown = Console(file=io.StringIO(), width=40, highlight=False)
    shown.print(view, soft_wrap=True)
    assert text_of(shown).splitlines()[:2] == [
        "member  node          state     round",
        "w0      node-a        training      4",
    ]


def test_a_log_gets_lines() -> None:
    shown = console(terminal=False)
    with show_progress(shown) as show:
        show(of({"phase": "waiting for a node"}))
        show(of({"phase": "waiting for a node"}))
        show(of(fleet()))
        show(of(fleet(step=32, commits=4)))
        show(of(fleet(step=40), cancel_requested=True))
    numbers = "round 3, batch {}/160  loss 2.3457  workers 2, quorum 2  commits 3  aborts 1  "
    traffic = "exchanged 36.9 MB  healing 1.5 kB"
    assert text_of(shown).splitlines() == [
        "waiting for a node",
        f"training  {numbers.format(24)}{traffic}",
        # Of two lines in a second only a new phase is printed.
        f"training, cancelling  {numbers.format(40)}{traffic}",
    ]


def test_a_fine_tuning_shows_its_steps_as_ever() -> None:
    shown = console(terminal=False)
    progress = {
        "phase": "training",
        "step": 3,
        "total_steps": 70,
        "loss": 1.5,
        "tokens_per_second": 2100.4,
    }
    with show_progress(shown) as show:
        show(JobOut.model_validate(job("RUNNING", progress=progress)))
    assert text_of(shown) == "training  step 3/70  loss 1.5000  2,100 tokens/s\n"
