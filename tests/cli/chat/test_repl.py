"""The conversation as a person has it: in a pseudo-terminal of 80 columns."""

import json
import re
import stat
import time
from pathlib import Path

from tests.cli.chat.conftest import ChatServer
from tests.fakes.terminal import CTRL_C, CTRL_D, UP, Terminal, open_terminal


def ask(terminal: Terminal, prompt: str) -> None:
    terminal.expect("> ")
    terminal.write(f"{prompt}\n")
    terminal.expect(prompt)


def test_turns_share_a_context_and_ctrl_d_leaves(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", "--system", "be brief", environment=environment) as terminal:
        terminal.expect(f"bot at {chat_server.url}")
        ask(terminal, "one")
        terminal.expect("<one>\n")
        ask(terminal, "two")
        terminal.expect("<two>\n")
        terminal.expect("> ")
        terminal.write(CTRL_D)
        assert terminal.wait() == 0
    assert chat_server.prompts == [["be brief", "one"], ["be brief", "one", "<one>", "two"]]


def test_ctrl_c_stops_the_answer_and_the_stream(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", environment=environment) as terminal:
        ask(terminal, "slow")
        terminal.expect("tick tick ")
        terminal.write(CTRL_C)
        terminal.expect("stopped; what came is kept in the conversation; /retry asks again")
        assert chat_server.hung_up.wait(10)
        ask(terminal, "and now")
        terminal.expect("<and now>")
        # At a prompt Ctrl-C drops the text; at an empty one it says what leaves.
        terminal.expect("> ")
        terminal.write("never sent")
        terminal.expect("never sent")
        terminal.write(CTRL_C)
        terminal.expect("> ")
        terminal.write(CTRL_C)
        terminal.expect("Ctrl-D or /exit leaves")
        terminal.expect("> ")
        terminal.write(CTRL_D)
        assert terminal.wait() == 0
    first, second = chat_server.prompts
    assert first == ["slow"]
    assert [second[0], second[2]] == ["slow", "and now"]
    assert second[1].startswith("tick tick ")


def test_ctrl_c_does_not_wait_for_the_first_word(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", environment=environment) as terminal:
        ask(terminal, "silent")
        while not chat_server.asked:
            time.sleep(0.01)
        terminal.write(CTRL_C)
        terminal.expect("stopped; /retry asks again")
        assert chat_server.hung_up.wait(10)
        ask(terminal, "next")
        terminal.expect("<next>")
    assert chat_server.prompts == [["silent"], ["next"]]


def test_history_outlives_the_conversation_and_is_private(
    environment: dict[str, str], chat_server: ChatServer
) -> None:
    file = Path(environment["FOUNDRY_HOME"]) / "chat_history.jsonl"
    with open_terminal("chat", "bot", environment=environment) as terminal:
        ask(terminal, "remember me")
        terminal.expect("<remember me>")
        ask(terminal, "remember me")
        terminal.expect("<remember me>")
        terminal.expect("> ")
        # Killed, not left: the line is in the file already.
    assert file.read_text() == '"remember me"\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text('"remember me"\nnot JSON\n3\n"earlier"\n')
    file.chmod(0o644)
    with open_terminal("chat", "bot", environment=environment) as terminal:
        terminal.expect("> ")
        terminal.write(UP + UP + "\n")
        terminal.expect("<remember me>")
        terminal.expect("> ")
        terminal.write("/exit\n")
        assert terminal.wait() == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().endswith('"remember me"\n"/exit"\n')


def test_errors_of_a_turn_end_neither_the_conversation_nor_enter_it(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", environment=environment) as terminal:
        ask(terminal, "kept")
        terminal.expect("<kept>")
        ask(terminal, "gone")
        terminal.expect("error: bot@1.0.0 is stopped")
        terminal.expect("served now: bot, bot@production, smol")
        ask(terminal, "busy")
        terminal.expect("error: too many requests")
        ask(terminal, "broken")
        terminal.expect("half an ans\nerror: the stream ended before the answer did")
        ask(terminal, "long")
        terminal.expect("error: the prompt has 9000 tokens")
        terminal.expect("/clear forgets what was said, /retry then asks this again")
        ask(terminal, "/model nobody")
        terminal.expect("error: nobody is not served (now: bot, bot@production, smol)")
        ask(terminal, "/model bot@production")
        ask(terminal, "hello")
        terminal.expect("<hello>")
        ask(terminal, "hostile")
        terminal.expect("[2Jred\n")
    assert chat_server.asked[-2]["model"] == "bot@production"
    assert chat_server.prompts[-2] == ["kept", "<kept>", "hello"]


def test_commands(environment: dict[str, str], chat_server: ChatServer, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with open_terminal("chat", "bot", environment=environment) as terminal:
        ask(terminal, "/help")
        listed = terminal.expect("/exit ")
        assert all(len(line) <= 80 for line in listed.splitlines())
        ask(terminal, "/frobnicate")
        terminal.expect("error: there is no command /frobnicate")
        terminal.expect("/help ")
        ask(terminal, "/retry")
        terminal.expect("error: nothing was asked yet")
        ask(terminal, f"/save {file}")
        terminal.expect("error: there is no answer to save yet")
        ask(terminal, "/set temperature=0 max_tokens=1 seed=7")
        terminal.expect("max_tokens=1 temperature=0 seed=7")
        ask(terminal, "/set temperature=inf")
        terminal.expect("error: temperature must be a number from 0 to 2")
        ask(terminal, "/set top=1")
        terminal.expect("error: top=1 sets nothing: write NAME=VALUE with max_tokens, temperature")
        ask(terminal, "/system be kind")
        terminal.expect("the system message is set")
        ask(terminal, "//etc is what?")
        terminal.expect("</etc is what?>")
        terminal.expect("cut off: max_tokens or the model's context was reached")
        ask(terminal, "/set max_tokens= seed=")
        terminal.expect("temperature=0\n")
        ask(terminal, "/save notes.txt")
        terminal.expect("error: give a file whose name ends with .jsonl")
        ask(terminal, "/save /proc/none.jsonl")
        terminal.expect("error: /proc/none.jsonl cannot be written: No such file or directory")
        ask(terminal, f"/save {file}")
        terminal.expect("added as a row: ")
        ask(terminal, "/clear")
        terminal.expect("forgot 1 exchange\n")
        ask(terminal, "/retry")
        terminal.expect("</etc is what?>")
        ask(terminal, "/model")
        terminal.expect("this is bot; served now: bot, bot@production, smol")
    asked = [
        {name: body.get(name) for name in ("temperature", "max_tokens", "seed")}
        for body in chat_server.asked
    ]
    assert asked == [
        {"temperature": 0.0, "max_tokens": 1, "seed": 7},
        {"temperature": 0.0, "max_tokens": None, "seed": None},
    ]
    assert chat_server.prompts == [["be kind", "/etc is what?"]] * 2
    assert json.loads(file.read_text()) == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "/etc is what?"},
            {"role": "assistant", "content": "</etc is what?>"},
        ]
    }


def test_a_pasted_prompt_may_have_several_lines(
    chat_server: ChatServer, environment: dict[str, str]
) -> None:
    with open_terminal("chat", "bot", environment=environment) as terminal:
        terminal.expect("> ")
        terminal.write("\x1b[200~first\nsecond\x1b[201~\n")
        terminal.expect("<first\nsecond>")
    assert chat_server.prompts == [["first\nsecond"]]


def test_no_color_means_none(chat_server: ChatServer, environment: dict[str, str]) -> None:
    with open_terminal("chat", "bot", environment=environment | {"NO_COLOR": "1"}) as terminal:
        ask(terminal, "/frobnicate")
        terminal.expect("error: there is no command")
        assert not re.search(r"\x1b\[3\d", terminal.raw)


def test_what_is_not_served_is_told_before_the_first_question(
    environment: dict[str, str],
) -> None:
    with open_terminal("chat", "nobody", environment=environment) as terminal:
        terminal.expect("error: nobody is not served (now: bot, bot@production, smol)")
        assert terminal.wait() == 3
    with open_terminal("chat", "bot", "-o", "json", environment=environment) as terminal:
        terminal.expect("error: --output json prints one answer")
        assert terminal.wait() == 6
