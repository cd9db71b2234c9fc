"""One answer: a prompt on the command line or in a pipe."""

import io
import json
import os
import subprocess
import sys

import pytest

from foundry.cli.main import run
from tests.cli.chat.conftest import ChatServer
from tests.fakes.terminal import CTRL_C, open_terminal

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_a_prompt_on_the_command_line(chat_server: ChatServer, capsys: Capture) -> None:
    assert run(["chat", "bot", "hello", "--system", "be brief", "--seed", "7"]) == 0
    assert capsys.readouterr().out == "<hello>\n"
    (body,) = chat_server.asked
    assert body == {
        "model": "bot",
        "stream": True,
        "seed": 7,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
        ],
    }


def test_json_is_one_document(capsys: Capture) -> None:
    assert run(["chat", "bot", "hostile", "--output", "json"]) == 0
    answer = {"model": "bot", "content": "\x1b[2J\x07\ud800red\n"}
    assert json.loads(capsys.readouterr().out) == answer


def test_standard_input_is_the_prompt(
    chat_server: ChatServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "from a pipe: ü".encode())
    assert run(["chat", "bot"]) == 0
    assert capsys.readouterr().out == "<from a pipe: ü>\n"


def test_a_given_prompt_leaves_standard_input_to_the_loop_around_it(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"next line of a while-read loop")
    assert run(["chat", "bot", "prompt"]) == 0
    assert chat_server.prompts == [["prompt"]]
    assert sys.stdin.read() == "next line of a while-read loop"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "there is no prompt"),
        (b" \n", "there is no prompt"),
        (b"\xff\xfe\0", "standard input is no text: send UTF-8"),
    ],
)
def test_a_pipe_without_a_prompt_is_refused(
    content: bytes, says: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, content)
    assert run(["chat", "bot"]) == 2
    assert says in capsys.readouterr().err


def test_a_closed_standard_input_is_no_prompt(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run(["chat", "bot"]) == 2
    assert "there is no prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bot", ""], "there is no prompt"),
        (["bot", "x", "--temperature", "nan"], "temperature"),
        (["bot", "x", "--temperature", "inf"], "temperature must be a number from 0 to 2"),
        (["bot", os.fsdecode(b"\xff")], "not UTF-8"),
        (["bot", "x", "--system", os.fsdecode(b"\xff")], "not UTF-8"),
        ([os.fsdecode(b"\xff"), "x"], "not UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    chat_server: ChatServer, arguments: list[str], says: str, capsys: Capture
) -> None:
    assert run(["chat", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert chat_server.asked == []


def test_a_model_that_is_not_served_is_told_with_those_that_are(capsys: Capture) -> None:
    assert run(["chat", "nobody", "hello"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert told == "error: the model nobody does not exist; served now: bot, bot@production, smol"
    assert run(["chat", "bot", "gone"]) == 5


def test_an_answer_that_breaks_off_ends_its_line(capsys: Capture) -> None:
    assert run(["chat", "bot", "broken"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "half an ans\n"
    assert shown.err.startswith("error: the stream ended")


def test_an_answer_that_was_cut_says_so_beside_it(capsys: Capture) -> None:
    assert run(["chat", "bot", "x", "--max-tokens", "1"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith("cut off: max_tokens")) == ("<x>\n", True)


def test_ctrl_c_ends_the_answer_and_the_command(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", "slow", environment=environment) as terminal:
        terminal.expect("tick ")
        terminal.write(CTRL_C)
        terminal.expect("stopped\n")
        assert terminal.wait() == 130
        assert "keeps running" not in terminal.shown
    assert chat_server.hung_up.wait(10)


def test_a_file_takes_the_answer_of_a_prompt_but_no_conversation(
    environment: dict[str, str],
) -> None:
    # A terminal as standard input alone: questions would be asked unseen.
    master, slave = os.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "foundry.cli.main", "chat", "bot"],
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )
    finally:
        os.close(master)
        os.close(slave)
    assert ended.returncode == 2
    assert "there is no prompt" in ended.stderr


def test_characters_that_the_terminal_lacks_are_replaced(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "foundry.cli.main", "chat", "bot", "a → b"],
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment, "PYTHONIOENCODING": "latin-1"},
    )
    assert (ended.returncode, ended.stdout) == (0, b"<a ? b>\n")
