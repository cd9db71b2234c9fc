import pytest

from foundry.cli.chat.conversation import MAX_TEMPERATURE, Conversation, Sampling
from foundry.errors import InvalidRequest
from foundry.gateway.sampling import RANGES


def contents(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.list_kept_messages()]


def test_a_retry_replaces_the_answer_only_when_there_is_another() -> None:
    conversation = Conversation("bot", None, Sampling())
    assert conversation.begin_again() is None
    conversation.keep(conversation.begin("a"), "1")
    conversation.keep(conversation.begin("b"), "2")
    again = conversation.begin_again()
    assert again is not None
    assert [message["content"] for message in conversation.list_messages(again)] == ["a", "1", "b"]
    assert contents(conversation) == ["a", "1", "b", "2"]
    conversation.keep(again, "3")
    assert contents(conversation) == ["a", "1", "b", "3"]


def test_a_prompt_without_an_answer_is_no_part_of_what_was_said() -> None:
    conversation = Conversation("bot", "be kind", Sampling())
    conversation.begin("lost")
    assert contents(conversation) == []
    conversation.keep(conversation.begin("a"), "1")
    assert contents(conversation) == ["be kind", "a", "1"]


def test_clearing_keeps_the_last_prompt_for_a_retry() -> None:
    conversation = Conversation("bot", None, Sampling())
    conversation.keep(conversation.begin("a"), "1")
    conversation.begin("too long")
    assert conversation.clear() == 1
    turn = conversation.begin_again()
    assert turn is not None
    assert conversation.list_messages(turn) == [{"role": "user", "content": "too long"}]


def test_options_are_set_and_taken_back() -> None:
    sampling = Sampling().apply_settings("temperature=0.5 seed=3")
    assert sampling == Sampling(temperature=0.5, seed=3)
    assert str(sampling) == "temperature=0.5 seed=3"
    assert sampling.apply_settings("temperature= max_tokens=8") == Sampling(max_tokens=8, seed=3)
    assert str(Sampling()) == "the server's defaults"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temperature", "temperature sets nothing: write NAME=VALUE with max_tokens, temperature"),
        ("top_p=1", "top_p=1 sets nothing"),
        ("temperature=warm", "temperature must be a number"),
        ("temperature=nan", "temperature must be a number from 0 to 2"),
        ("temperature=2.1", "temperature must be a number from 0 to 2"),
        ("temperature=-1", "temperature must be a number from 0 to 2"),
        ("max_tokens=1.5", "max_tokens must be a whole number"),
        ("max_tokens=0", "max_tokens must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Sampling().apply_settings(text)
    assert caught.value.message.startswith(says)


def test_the_highest_temperature_is_the_gateways() -> None:
    assert RANGES["temperature"].high == MAX_TEMPERATURE
