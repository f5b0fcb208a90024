"""What only the memory host can show: failures exactly when told, members that come, go and freeze."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from bitbylaw_common import topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka import codec
from bitbylaw_common.outcomes import Done, Outcome, Retry
from bitbylaw_common.runtime import Context
from bitbylaw_common.runtime.hosts.memory_host import SESSION_SECONDS, MemoryHost
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.worker import Place
from bitbylaw_common.topics import PARTITIONS
from harness import encoded, memory_harness
from toy import CHANGED, ORDERED, Ledger, ThingChanged, toy


async def test_an_outage_of_the_log_holds_the_run_and_loses_nothing() -> None:
    async with memory_harness() as host:
        await host.publish(CHANGED, ThingChanged(thing="a"))
        host.fail_the_log(times=3)
        await host.until(lambda: [e.outcome for e in host.journal("a")] == ["done"])

        assert host.ledger.numbers("a") == [0]


class Team:
    """Members of the toy on one host."""

    def __init__(self) -> None:
        self.host = MemoryHost()
        self.ledger = Ledger()

    async def publish(self, thing: str, number: int = 0) -> None:
        """Append an event; a thing's events are taken one by one."""
        event = ThingChanged(thing=thing, number=number)
        await self.host.log.append([encoded(ORDERED, event, self.host.clock.now())])

    def owned(self) -> dict[str, list[int]]:
        """Return what each member owns."""
        return {m: sorted(self.host.worker(m).partitions) for m in self.host.members("toy")}

    def thing_of(self, member: str) -> str:
        """Return a thing that lies where a member works."""
        owned = self.host.worker(member).partitions
        return next(n for n in map(str, range(99)) if codec.partition_of(n.encode()) in owned)

    async def begin(self) -> None:
        """Let what is published begin to run, and no more."""
        self.host.nudge()
        await self.host.let_run()


@asynccontextmanager
async def team(size: int) -> AsyncIterator[Team]:
    """Start so many members."""
    found = Team()
    await found.host.start(toy(found.ledger))
    for _ in range(size - 1):
        await found.host.join("toy")
    try:
        yield found
    finally:
        found.ledger.gate.set()
        for member in found.host.members("toy"):
            await found.host.crash(member)


async def _wait(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
    await ctx.deps.gate.wait()
    return Done("looked")


async def test_members_share_the_partitions_as_kafka_s_assignor_shares_them() -> None:
    async with team(3) as one:
        assert one.owned() == {
            "toy": [0, 1, 2, 3],
            "toy-2": [4, 5, 6, 7],
            "toy-3": [8, 9, 10, 11],
        }
        await one.host.leave("toy-2")
        assert one.owned() == {"toy": [0, 1, 2, 3, 4, 5], "toy-3": [6, 7, 8, 9, 10, 11]}
        await one.host.leave("toy")
        assert one.owned() == {"toy-3": [*range(PARTITIONS)]}


async def test_what_was_committed_before_a_rebalance_does_not_run_after_it() -> None:
    async with team(1) as one:
        for number in range(20):
            await one.publish(f"t{number}")
        await one.host.settle()
        await one.host.join("toy")
        await one.host.leave("toy")
        await one.host.settle()
        assert Counter(one.ledger.ended).most_common(1)[0][1] == 1
        assert len(one.ledger.ended) == 20


async def test_a_rebalance_lets_a_run_end_that_ends_within_the_drain() -> None:
    async with team(1) as one:

        async def slow(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            await one.host.clock.sleep(8)
            return Done("looked")

        one.ledger.answer = slow
        await one.publish("a")
        await one.begin()
        await one.host.join("toy")
        await one.host.settle()
        assert one.ledger.started == [("a", 0)]
        assert [entry.outcome for entry in one.host.journal("a")] == ["done"]


async def test_a_run_that_outlasts_the_drain_is_cancelled_and_made_again_by_the_next_owner() -> (
    None
):
    async with team(1) as one:
        one.ledger.answer = _wait
        await one.publish("a")
        await one.begin()
        before = one.host.clock.monotonic()
        await one.host.join("toy")
        assert one.host.clock.monotonic() - before == 10
        assert sum(one.ledger.open.values()) == 0
        one.ledger.gate.set()
        await one.host.settle()
        assert one.ledger.started == [("a", 0)] * 2
        assert one.ledger.overlaps == 0


async def test_a_killed_member_s_partitions_go_to_the_others_when_its_session_is_over() -> None:
    async with team(2) as one:
        thing = one.thing_of("toy-2")
        await one.host.crash("toy-2")
        await one.publish(thing)
        await one.host.advance(seconds=SESSION_SECONDS - 1)
        assert one.ledger.started == []
        await one.host.advance(seconds=1)
        assert one.ledger.started == [(thing, 0)]
        assert one.owned() == {"toy": [*range(PARTITIONS)]}


async def test_a_member_that_is_back_within_its_session_disturbs_nobody() -> None:
    async with team(2) as one:
        thing = one.thing_of("toy")
        one.ledger.answer = _wait
        await one.publish(thing)
        await one.begin()
        await one.host.crash("toy-2")
        await one.host.start_again("toy-2", "toy")
        assert one.owned()["toy-2"] == [6, 7, 8, 9, 10, 11]
        assert one.ledger.open[thing] == 1


async def test_a_frozen_member_stands_still_wherever_it_is() -> None:
    async with team(1) as one:
        steps: list[str] = []

        async def walk(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            async with asyncio.TaskGroup() as both:
                for name in ("left", "right"):
                    both.create_task(one.host.clock.sleep(1)).add_done_callback(
                        lambda _, name=name: steps.append(name)  # type: ignore[misc]  # bound at once
                    )
            steps.append("on")
            await asyncio.sleep(0)
            steps.append("there")
            return Done("walked")

        one.ledger.answer = walk
        await one.publish("a")
        await one.begin()
        one.host.freeze("toy")
        await one.publish("b")
        await one.host.advance(seconds=20)
        assert steps == []
        assert one.host.journal("a") == []
        one.host.thaw("toy")
        await one.host.settle()
        assert steps[:4] == ["left", "right", "on", "there"]
        assert [entry.outcome for entry in one.host.journal("a")] == ["done"]
        assert one.ledger.started == [("a", 0), ("b", 0)]


async def test_a_short_freeze_costs_nothing_and_a_long_one_the_partitions() -> None:
    async with team(2) as one:
        one.host.freeze("toy-2")
        await one.host.advance(seconds=SESSION_SECONDS - 1)
        one.host.thaw("toy-2")
        await one.host.settle()
        assert one.owned()["toy-2"] == [6, 7, 8, 9, 10, 11]

        one.host.freeze("toy-2")
        await one.host.advance(seconds=SESSION_SECONDS)
        assert one.owned()["toy"] == [*range(PARTITIONS)]
        one.host.thaw("toy-2")
        assert not one.host.counted_on("toy-2")
        await one.host.settle()
        assert one.owned()["toy-2"] == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("lease_holds", [False, True])
async def test_a_zombie_s_schedule_is_the_new_owner_s(*, lease_holds: bool) -> None:
    async with team(2) as one:
        thing = one.thing_of("toy-2")

        async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            if len(ctx.deps.started) == 1:
                await ctx.deps.gate.wait()
            return Retry(f"run {len(ctx.deps.started)}")

        one.ledger.answer = fail
        await one.publish(thing)
        await one.begin()
        one.host.freeze("toy-2")
        one.ledger.gate.set()
        await one.host.advance(seconds=SESSION_SECONDS)
        (entry,) = [e for e in one.host.worker("toy").schedule.entries() if e.entity_id == thing]
        one.host.thaw("toy-2", lease_holds=lease_holds)
        await one.host.let_run()

        entries = [
            record.value
            for record in one.host.log.records(topics.schedule("toy").name)
            if record.key == entry.lane.to_bytes()
        ]
        assert entries == [entry.to_bytes()]
        await one.host.advance(seconds=59)
        assert len(one.ledger.started) == 2
        await one.host.advance(seconds=1)
        assert len(one.ledger.started) == 3


async def test_a_commit_whose_acknowledgement_was_lost_is_made_again() -> None:
    lost: list[str] = []

    def lose(member: str, commits: Mapping[Place, Commit]) -> None:
        lost.append(member)
        if len(lost) < 3:
            raise LogUnavailableError("committed, and not told")

    async with team(1) as one:
        one.host.on_commit = lose
        await one.publish("a")
        await one.host.settle()
        assert lost == ["toy"] * 3
        assert one.host.worker("toy").commits() == {}


async def test_an_append_that_was_stored_unseen_may_be_there_twice() -> None:
    def lose(records: Sequence[Outgoing]) -> None:
        if records[0].topic == topics.JOURNAL.name:
            one.host.log.on_stored = lambda _: None
            raise LogUnavailableError("stored, and not told")

    async with team(1) as one:
        one.host.log.on_stored = lose
        await one.publish("a")
        await one.host.advance(seconds=1)
        assert [entry.outcome for entry in one.host.journal("a")] == ["done", "done"]
        assert one.ledger.started == [("a", 0)]


async def test_records_may_be_stamped_by_another_clock_than_the_workers_() -> None:
    async with team(1) as one:
        one.host.log.ahead = timedelta(minutes=-5)
        await one.publish("a")
        (record,) = one.host.log.records(ORDERED.name)
        assert record.time == one.host.clock.now() - timedelta(minutes=5)
