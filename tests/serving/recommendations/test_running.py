"""Searches and what becomes of them when things fail, on a real PostgreSQL."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.engines.budsim.loop import Bias, Correction
from foundry.errors import EngineFailed, InvalidRequest, NotFound
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.serving.recommendations.domain import MAX_ATTEMPTS
from foundry.serving.recommendations.learning import Learnt
from foundry.serving.recommendations.running import Searches
from tests.governance.identity.principals import principal
from tests.serving.recommendations.questions import FakeSearcher, answer, question

pytestmark = pytest.mark.postgres


class Bench:
    """One caller, and as many processes that search as a test wants."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.caller = principal()
        self.objects = DirectoryStore(root)

    def process(self, searcher: FakeSearcher) -> Searches:
        return Searches(self.database, self.objects, searcher=searcher)

    async def age(self, recommendation_id: UUID, seconds: int) -> None:
        """Let the running search look as if it had begun so long ago."""
        async with self.database.begin() as db:
            await db.execute(
                text("UPDATE recommendations SET started_at = now() - make_interval(secs => :s)"),
                {"s": seconds},
            )


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    return Bench(database, tmp_path)


async def _state(process: Searches, caller: Principal, recommendation_id: UUID) -> str:
    async with process.recommendations(caller) as recommendations:
        return (await recommendations.get(recommendation_id)).state


async def test_equal_questions_share_one_search(bench: Bench) -> None:
    searcher = FakeSearcher()
    process = bench.process(searcher)
    rows = await asyncio.gather(*(process.ask(bench.caller, "r", question(), 10) for _ in range(5)))
    assert len({row.id for row in rows}) == 1
    assert {row.state for row in rows} == {"DONE"}
    assert rows[0].result == answer()
    assert len(searcher.asked) == 1
    other = await process.ask(bench.caller, "r", question(method="PRIOR"), 10)
    assert other.id != rows[0].id
    assert searcher.asked[-1].request.method == "PRIOR"
    assert searcher.asked[-1].config["hidden_size"] == 4096


async def test_new_prices_make_a_new_question(bench: Bench) -> None:
    searcher = FakeSearcher()
    process = bench.process(searcher)
    first = await process.ask(bench.caller, "r", question(), 10)
    async with process.recommendations(bench.caller) as recommendations:
        await recommendations.set_prices({"nvidia-l40s-48gb": 9.0})
    second = await process.ask(bench.caller, "r", question(), 10)
    assert second.id != first.id
    assert searcher.asked[1].prices == {"nvidia-l40s-48gb": 9.0}
    async with process.recommendations(bench.caller) as recommendations:
        await recommendations.set_prices({"nvidia-l40s-48gb": None})
    # The old prices again: the old answer again.
    assert (await process.ask(bench.caller, "r", question(), 10)).id == first.id


async def test_what_deployments_taught_makes_a_new_question(bench: Bench) -> None:
    taught = Learnt(Bias({("nvidia-l40s-48gb", "vllm", "1", "tpot_ms"): Correction(1.5)}))

    async def current(db: AsyncSession) -> Learnt:
        return taught

    first = await bench.process(FakeSearcher()).ask(bench.caller, "r", question(), 10)
    searcher = FakeSearcher()
    wiser = Searches(bench.database, bench.objects, searcher=searcher, learnt=current)
    second = await wiser.ask(bench.caller, "r", question(), 10)
    assert second.id != first.id
    asked = searcher.asked[0].learnt
    assert asked is not None
    assert asked.bias.factor("nvidia-l40s-48gb", "vllm", "1", "tpot_ms") == 1.5


async def test_waiting_is_bounded_and_the_answer_comes_later(bench: Bench) -> None:
    gate = asyncio.Event()
    process = bench.process(FakeSearcher(gate=gate))
    row = await process.ask(bench.caller, "r", question(), 0.3)
    assert row.state == "RUNNING"
    gate.set()
    assert (await process.wait_until_settled(bench.caller, row.id, 10)).state == "DONE"


async def test_a_refused_search_says_why_and_may_be_asked_again(bench: Bench) -> None:
    searcher = FakeSearcher(fault=InvalidRequest("requests exceed the model's 512 tokens"))
    process = bench.process(searcher)
    row = await process.ask(bench.caller, "r", question(), 10)
    assert row.state == "FAILED"
    assert row.error == {
        "code": "invalid_value",
        "message": "requests exceed the model's 512 tokens",
    }
    searcher.fault = None
    again = await process.ask(bench.caller, "r", question(), 10)
    assert (again.state, again.id != row.id) == ("DONE", True)


async def test_a_fault_of_the_code_ends_the_row_without_its_words(bench: Bench) -> None:
    process = bench.process(FakeSearcher(fault=RuntimeError("secret /path")))
    row = await process.ask(bench.caller, "r", question(), 10)
    assert row.state == "FAILED"
    assert row.error is not None
    assert row.error["code"] == "internal_error"
    assert "secret" not in str(row.error)


async def test_a_dead_process_is_succeeded_by_whoever_looks(bench: Bench) -> None:
    dead = bench.process(FakeSearcher(gate=asyncio.Event()))
    row = await dead.ask(bench.caller, "r", question(), 0.2)
    await dead.close()
    heir = FakeSearcher()
    alive = bench.process(heir)
    # Not yet: it may only be slow.
    assert (await alive.wait_until_settled(bench.caller, row.id, 0.5)).state == "RUNNING"
    assert heir.asked == []
    await bench.age(row.id, 3600)
    found = await alive.wait_until_settled(bench.caller, row.id, 10)
    assert (found.state, found.attempt, len(heir.asked)) == ("DONE", 2, 1)


async def test_an_answer_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    gate = asyncio.Event()
    slow = bench.process(FakeSearcher(result={"from": "slow"}, gate=gate))
    row = await slow.ask(bench.caller, "r", question(), 0.2)
    await bench.age(row.id, 3600)
    alive = bench.process(FakeSearcher())
    assert (await alive.wait_until_settled(bench.caller, row.id, 10)).result == answer()
    gate.set()
    await asyncio.sleep(0.2)
    assert (await slow.wait_until_settled(bench.caller, row.id, 0)).result == answer()


async def test_a_search_that_kills_every_process_is_given_up(bench: Bench) -> None:
    row = None
    for _ in range(MAX_ATTEMPTS):
        process = bench.process(FakeSearcher(gate=asyncio.Event()))
        row = await process.ask(bench.caller, "r", question(), 0.2)
        await process.close()
        await bench.age(row.id, 3600)
    assert row is not None
    process = bench.process(FakeSearcher())
    ended = await process.wait_until_settled(bench.caller, row.id, 10)
    assert ended.state == "FAILED"
    assert ended.error == {
        "code": EngineFailed.code,
        "message": "its search died 3 times: ask again, or ask for less",
    }


async def test_a_row_that_waits_for_nobody_is_searched_when_looked_at(bench: Bench) -> None:
    searcher = FakeSearcher()
    process = bench.process(searcher)
    async with process.recommendations(bench.caller) as recommendations:
        row, created = await recommendations.ask(question())
    assert (created, await _state(process, bench.caller, row.id)) == (True, "PENDING")
    assert (await process.wait_until_settled(bench.caller, row.id, 10)).state == "DONE"


async def test_strangers_find_nothing(bench: Bench) -> None:
    process = bench.process(FakeSearcher())
    row = await process.ask(bench.caller, "r", question(), 10)
    for stranger in (principal(), principal(tenant_id=bench.caller.tenant_id)):
        with pytest.raises(NotFound, match="foundry budsim list"):
            await process.wait_until_settled(stranger, row.id)
    with pytest.raises(NotFound):
        await process.wait_until_settled(bench.caller, uuid4())
    mine = await process.ask(principal(), "r", question(), 10)
    assert mine.id != row.id
