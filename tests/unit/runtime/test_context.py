"""The context: what a handler may ask for, over a real run in the memory host."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import DeclarationError, OwnershipLost, Transient, UndeclaredTopicError
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.outcomes import Done, Outcome, Retry, Wait
from bitbylaw_common.runtime import ApiRequest, ApiResponse, App, Context, Emit, http, step
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.runtime.ports import Outgoing
from toy import CHANGED, ECHO, ORDERED, Ledger, ThingBase, ThingChanged, state, toy

Handler = Callable[[ThingChanged, Context[Ledger]], Awaitable[Outcome]]


class Table:
    """A memory host with the toy app on it, and what its runs left."""

    def __init__(self) -> None:
        self.host = MemoryHost()
        self.ledger = Ledger()

    async def run(self, handler: Handler, *, thing: str = "a") -> JournalEntry:
        """Let `handler` answer one event; return what the journal says of its run."""
        self.ledger.answer = handler
        event = ThingChanged(thing=thing)
        now = self.host.clock.now()
        out = codec.encode(CHANGED, event, event_id="event-1", source="test", now=now)
        await self.host.log.append([out])
        await self.host.settle()
        return self.host.journal(thing)[-1]

    def base(self) -> list[bytes | None]:
        return [record.value for record in self.host.log.records(topics.base("toy").name)]


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    table = Table()
    await table.host.start(toy(table.ledger))
    yield table
    await table.host.stop()


async def test_a_run_knows_its_event_itself_its_attempt_and_the_host_s_time(table: Table) -> None:
    seen: list[tuple[str, str, int, bool]] = []

    async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        at_host_time = ctx.now() == table.host.clock.now()
        seen.append((ctx.event_id, ctx.run_id, ctx.attempt, at_host_time))
        return Done("looked")

    entry = await table.run(look)
    assert seen == [("event-1", entry.run_id, 1, True)]
    assert entry.event_id == "event-1"


async def test_a_run_publishes_what_its_step_declares(table: Table) -> None:
    ids: list[str] = []

    async def echo(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        ids.append(await ctx.enqueue(ECHO, event))
        ids.extend(await ctx.enqueue_all([Emit(ECHO, event, {"bbl-dup": "d"}), Emit(ECHO, event)]))
        return Done("echoed")

    await table.run(echo)
    records = table.host.log.records(ECHO.name)
    assert [record.headers["ce_id"] for record in records] == ids
    assert len(set(ids)) == 3
    assert [record.headers.get("bbl-dup") for record in records] == [None, "d", None]
    assert {record.headers["ce_source"] for record in records} == {"/bitbylaw/toy"}


async def test_publishing_elsewhere_is_refused_before_anything_is_sent(table: Table) -> None:
    raised: list[UndeclaredTopicError] = []

    async def stray(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        try:
            await ctx.enqueue_all([Emit(ECHO, event), Emit(ORDERED, event)])
        except UndeclaredTopicError as refused:
            raised.append(refused)
        return Done("looked")

    await table.run(stray)
    assert "toy.thing.ordered" in str(raised[0])
    assert table.host.log.records(ECHO.name) == []


async def test_what_was_agreed_is_there_for_the_next_run_and_after_a_crash(table: Table) -> None:
    found: list[ThingBase | None] = []

    async def agree(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        found.append(ctx.base(ThingBase))
        await ctx.agree(state(7, ctx.run_id))
        return Done("agreed")

    await table.run(agree)
    await table.run(agree)
    await table.host.restart("toy")
    await table.run(agree)

    assert found[0] is None
    assert [base.effects for base in found[1:] if base] == [7, 7]


async def test_what_is_forgotten_is_gone(table: Table) -> None:
    async def agree_and_forget(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        await ctx.agree(state(7, ctx.run_id))
        await ctx.agree(None)
        return Done("nothing" if ctx.base(ThingBase) is None else "still there")

    assert (await table.run(agree_and_forget)).summary == "nothing"
    assert table.base()[-1] is None


async def test_an_intent_is_written_with_its_journal_line_before_the_effect(table: Table) -> None:
    order: list[str] = []

    def note(records: Any) -> None:
        order.extend(record.topic for record in records)

    async def write(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        ctx.decided("first-sync", "nothing is there yet")
        await ctx.intend(state(0, ctx.run_id))
        async with ctx.effect("xai", "upload", target="file_1", fields={"name": "digest"}):
            order.append("effect")
        await ctx.agree(state(1, ctx.run_id))
        return Done("written")

    table.host.log.on_stored = note
    end = await table.run(write)
    intent = table.host.journal("a")[0]

    assert order[1:] == [
        "toy.base",
        "sync.journal",
        "effect",
        "toy.base",
        "sync.journal",
    ]
    assert (intent.phase, intent.rule, intent.outcome, intent.effects) == (
        "intent",
        "first-sync",
        None,
        (),
    )
    assert (end.phase, end.reason) == ("end", "nothing is there yet")
    (effect,) = end.effects
    assert (effect.system, effect.method, effect.target, effect.result) == (
        "xai",
        "upload",
        "file_1",
        "done",
    )
    assert effect.fields == {"name": "digest"}


@pytest.mark.parametrize(("ambiguous", "result"), [(True, "unknown"), (False, "failed")])
async def test_an_effect_that_broke_off_is_recorded_for_what_is_known(
    table: Table, *, ambiguous: bool, result: str
) -> None:
    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        async with ctx.effect("xai", "upload"):
            raise Transient("xai", "upload", ambiguous=ambiguous)

    entry = await table.run(fail)
    assert (entry.outcome, [effect.result for effect in entry.effects]) == ("retry", [result])


async def test_an_unreadable_base_counts_as_none_and_is_counted(table: Table) -> None:
    key, topic = b"thing:a", topics.base("toy").name
    partition = codec.partition_of(b"a")
    before = metrics.value("bitbylaw_undecodable_records_total", service="toy", source="base")

    async def look(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Done("first sync" if ctx.base(ThingBase) is None else "known")

    await table.host.log.append([Outgoing(topic, key, b'{"effects":"many"}', {}, partition)])
    await table.host.restart("toy")

    assert (await table.run(look)).summary == "first sync"
    after = metrics.value("bitbylaw_undecodable_records_total", service="toy", source="base")
    assert after - before == 1


async def test_a_run_whose_partition_went_away_may_write_nothing(table: Table) -> None:
    refused: list[str] = []

    async def late(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        table.host.worker("toy").forget(range(topics.PARTITIONS))

        async def effect() -> None:
            async with ctx.effect("xai", "upload"):
                refused.append("the effect was carried out")

        async def check() -> None:
            ctx.still_owner()

        for name, write in (
            ("check", check()),
            ("enqueue", ctx.enqueue(ECHO, event)),
            ("base", ctx.agree(state(1, ctx.run_id))),
            ("effect", effect()),
        ):
            try:
                await write
            except OwnershipLost:
                refused.append(name)
        return Done("too late")

    table.ledger.answer = late
    event = ThingChanged(thing="a")
    now = table.host.clock.now()
    out = codec.encode(CHANGED, event, event_id="event-1", source="test", now=now)
    await table.host.log.append([out])
    await table.host.settle()

    assert refused == ["check", "enqueue", "base", "effect"]
    assert (table.host.journal("a"), table.base()) == ([], [])
    assert table.host.log.records(ECHO.name) == []


async def test_a_failed_sight_is_not_tried_again_before_its_time_but_a_new_one_is(
    table: Table,
) -> None:
    sights = ["same", "same", "other"]

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return ctx.saw(sights.pop(0)) or Retry("it rains")

    first = await table.run(fail)
    echo = await table.run(fail)
    fresh = await table.run(fail)

    assert (first.outcome, first.saw) == ("retry", "same")
    assert echo.outcome == "skipped"
    assert echo.summary.startswith("unchanged since attempt 1, next at ")
    assert (fresh.outcome, fresh.attempt) == ("retry", 1)


async def no_outcome(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    nothing: Any = None
    found: Outcome = nothing
    return found


async def endless(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    return Wait("for ever and a day", timedelta.max)


async def without_a_zone(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    return Wait("until noon", timedelta(0), ctx.now().replace(tzinfo=None))


@pytest.mark.parametrize("handler", [no_outcome, endless, without_a_zone])
async def test_an_answer_that_nothing_can_be_made_of_is_a_bug_and_stops_nobody_else(
    table: Table, handler: Handler
) -> None:
    async def well(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Done("looked")

    broken = await table.run(handler)
    other = await table.run(well, thing="b")

    assert (broken.outcome, broken.error) == ("bug", "Bug")
    assert other.outcome == "done"


async def test_a_request_has_no_record_to_keep_a_base_for() -> None:
    raised: list[DeclarationError] = []

    @step(name="Ask", description="asks", flows=[], triggers=[http("GET", "/ask")])
    async def ask(request: ApiRequest[bytes], ctx: Context[None]) -> ApiResponse:
        ctx.still_owner()
        nothing = (ctx.base(ThingBase), ctx.saw("digest"), ctx.attempt, ctx.event_id)
        try:
            await ctx.agree(state(1, ctx.run_id))
        except DeclarationError as refused:
            raised.append(refused)
        return ApiResponse(200, nothing)

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[None]:
        yield None

    host = MemoryHost()
    await host.start(App("asker", [ask], open_deps))
    answer = await host.request("GET", "/ask")
    await host.stop()

    assert answer.body == (None, None, 1, "")
    assert "publish an event and let a queue step do it" in str(raised[0])
