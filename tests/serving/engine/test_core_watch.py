"""A core that answers, one that is silent, and one that fails."""

import asyncio

import pytest

from foundry.errors import EngineFailed
from foundry.serving.engine.core_watch import CoreWatch


class Core:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bool]] = []
        self.now = 0.0

    async def ask(self) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        return await answer

    def watch(self) -> CoreWatch:
        return CoreWatch(self.ask, silence_s=60.0, clock=lambda: self.now)


async def _look(watch: CoreWatch) -> None:
    await watch.check()
    await asyncio.sleep(0)


async def test_a_core_that_answers_is_asked_again_each_time() -> None:
    core = Core()
    watch = core.watch()
    for count in (1, 2, 3):
        core.now += 5.0
        await _look(watch)
        assert len(core.asked) == count
        core.asked[-1].set_result(False)
        await asyncio.sleep(0)


async def test_one_question_stays_open_until_the_silence_is_too_long() -> None:
    core = Core()
    watch = core.watch()
    await _look(watch)
    core.now = 60.0
    await _look(watch)
    assert len(core.asked) == 1
    core.now = 60.5
    with pytest.raises(EngineFailed, match="answered nothing for 60 s"):
        await watch.check()
    # It goes on after all: nothing is held against it.
    core.asked[0].set_result(False)
    await asyncio.sleep(0)
    await _look(watch)
    assert len(core.asked) == 2


async def test_a_core_that_fails_on_a_question_is_dead() -> None:
    core = Core()
    watch = core.watch()
    await _look(watch)
    core.asked[0].set_exception(RuntimeError("EngineCore encountered an issue"))
    await asyncio.sleep(0)
    with pytest.raises(EngineFailed, match="failed on a question"):
        await watch.check()
