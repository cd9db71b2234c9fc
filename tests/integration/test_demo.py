"""What `make demo` promises, and every command that it and the README show."""

import json
import re
import time
from pathlib import Path

import pytest

from foundry.install.builds import ROOT
from tests.bench.demo import OWN_ANSWER, OWN_QUESTION, write_own_rows
from tests.integration.conftest import Stack
from tests.integration.test_walk import assert_ids_whole
from workflows.demo import BASE, DATASET, MODEL

pytestmark = pytest.mark.engine


def test_the_adapter_beats_its_base_on_held_out_prompts(stack: Stack) -> None:
    base, prompts = stack.matches(BASE)
    adapter, _ = stack.matches(f"{MODEL}@production")
    assert prompts == 63
    assert adapter / prompts >= 0.85
    assert (adapter - base) / prompts >= 0.5
    assert stack.seconds <= 900


def test_the_printed_curl_line_answers_a_command(stack: Stack) -> None:
    curl = stack.printed[stack.printed.index("curl ") : stack.printed.index("Next:")]
    answered = stack.shell(curl.replace("curl ", "curl -sS ", 1))
    assert answered.returncode == 0, answered.stderr
    text = json.loads(answered.stdout)["choices"][0]["message"]["content"]
    assert json.loads(text)["user"] == "mei.tanaka"


def _list_printed_commands(stack: Stack) -> list[str]:
    shown = stack.printed[stack.printed.index("Next:") :].splitlines()[1:]
    return [line.strip() for line in shown if line.strip().startswith("foundry ")]


def test_the_printed_next_commands_work(stack: Stack) -> None:
    printed = [stack.shell(command) for command in _list_printed_commands(stack)[:3]]
    assert [done.returncode for done in printed] == [0, 0, 0], [done.stderr for done in printed]
    chat, lineage, jobs = (done.stdout for done in printed)
    assert json.loads(chat) == {"action": "refund_order", "order": 4711, "amount": 12}
    assert BASE in lineage
    assert f"{DATASET}@1" in lineage
    assert "SUCCEEDED" in jobs


@pytest.mark.long(reason="it trains and serves a newcomer's model, for which it allows 180 s")
def test_ten_rows_of_ones_own_are_learnt_as_printed(stack: Stack, tmp_path: Path) -> None:
    write_own_rows(tmp_path / "mine.jsonl")
    add, train, _ = _list_printed_commands(stack)[3:]
    chat = f'foundry chat my-bot "{OWN_QUESTION}" --temperature 0'
    began = time.monotonic()
    shown = stack.terminal(f"cd {tmp_path}\n{add}\n{train}\n{chat}")
    assert time.monotonic() - began <= 180, shown
    assert shown.rstrip().endswith(OWN_ANSWER)


@pytest.mark.long(reason="it asks two models the 63 held-out prompts again")
def test_a_second_demo_finds_everything_done(stack: Stack) -> None:
    before = json.loads(stack.run("foundry.cli.main", "jobs", "list", "--output", "json").stdout)
    again = stack.run("workflows.demo")
    assert again.returncode == 0, again.stderr
    after = json.loads(stack.run("foundry.cli.main", "jobs", "list", "--output", "json").stdout)
    assert {job["id"] for job in after} == {job["id"] for job in before}
    assert re.findall(r"(\d+) / 63", again.stdout) == re.findall(r"(\d+) / 63", stack.printed)


def _blocks(language: str) -> list[str]:
    """The README's blocks after its first one, which is `make demo` and `make test` themselves."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def _of(stack: Stack, block: str) -> str:
    """A block with this stack's address and key where the README has its examples."""
    return block.replace("http://127.0.0.1:8000", stack.url).replace("fk_live_…", stack.api_key)


def test_the_readme_says_the_two_commands_first() -> None:
    first = [line.split("#")[0].strip() for line in _blocks("bash")[0].splitlines()]
    assert first == ["make demo", "make test"]


@pytest.mark.parametrize("number", range(1, len(_blocks("bash"))))
def test_a_command_block_of_the_readme(stack: Stack, number: int) -> None:
    block = _of(stack, _blocks("bash")[number])
    if "make " in block:
        pytest.fail("blocks with make end this stack or start another: show them in text")
    shown = stack.terminal(block)
    assert_ids_whole(shown)
    if "ray job submit" in block:
        _check_job_by_hand(stack, shown)


def _check_job_by_hand(stack: Stack, shown: str) -> None:
    """A fine-tuning that was submitted by hand is its own Ray job; its output is the job's."""
    made = re.search(r"^(\S+)@\d+\.\d+\.\d+ is in the registry", shown, re.MULTILINE)
    submitted = re.search(r"raysubmit_\w+", shown)
    assert made is not None and submitted is not None, shown
    assert "httpx" not in shown
    with stack.client() as client:
        job = client.jobs.get(made[1])
    assert (job.state, job.attempt, job.submission_id) == ("SUCCEEDED", 1, submitted[0])


@pytest.mark.parametrize("number", range(len(_blocks("python"))))
def test_a_python_block_of_the_readme(stack: Stack, number: int) -> None:
    block = _of(stack, _blocks("python")[number])
    done = stack.shell(f"python - <<'END'\n{block}\nEND")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
