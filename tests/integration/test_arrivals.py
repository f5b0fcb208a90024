"""Events that arrive before, in and directly at the end of their key's run, over a real Kafka.

Each story is one key and what befalls it, by its seed: its runs are held until it lets them go on,
and the key is changed and told of around that moment. What every run saw is noted outside of the
runtime: a change whose event was dropped stays unseen, because nothing comes after the last one.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

import pytest

from bitbylaw_common.outcomes import Done, Outcome, Retry, Skipped, Wait
from bitbylaw_common.runtime import Context
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.topics import Topic
from harness import Harness, kafka_harness
from toy import CHANGED, ORDERED, Ledger, ThingBase, ThingChanged, state

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

STORIES = 200
SEEDS = (1, 2, 3)
RUN_SECONDS = 60.0
"""A run that does not come within this never comes."""

Moment = Literal["before", "during", "on its way", "at the end", "behind the end"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
Ending = Literal["done", "skipped", "base", "wait", "retry"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)


@dataclass
class Story:
    """One key.

    Attributes:
        changes: how many there were; each is told by an event of its number, from 0.
        well: what runs that ended well had seen, in order: where one run answers for all that
            waits, the last change before it began; else its own event's.
        runs: how many began.
        told: the moments of its events, in order, for a seed that fails.
        failed: the events that failed once.
        free: its runs are held no more.
    """

    host: Harness
    thing: str
    topic: Topic[Any]
    chance: random.Random
    changes: int = 0
    well: list[int] = field(default_factory=list)
    runs: int = 0
    told: list[str] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    free: bool = False
    began: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    # What its runs do -------------------------------------------------------------------------

    async def run(self, event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        """Be held until the story goes on, and end as the seed says; a failure comes once."""
        saw = self.changes - 1 if self.topic is CHANGED else event.number
        self.runs += 1
        self.over.clear()
        self.began.set()
        if not self.free:
            await self.goes_on.wait()
            self.goes_on.clear()
        outcome = await self._ending(event, ctx)
        if isinstance(outcome, Done | Skipped):
            self.well.append(saw)
        self.over.set()
        return outcome

    async def _ending(self, event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        ending = self.chance.choice(ENDINGS)
        if event.number in self.failed and ending in ("wait", "retry"):
            ending = "done"
        match ending:
            case "done":
                return Done("looked")
            case "skipped":
                return Skipped("already in line")
            case "base":
                base = ctx.base(ThingBase)
                await ctx.agree(state(1 if base is None else base.effects + 1, ctx.run_id))
                return Done("agreed")
            case "wait":
                self.failed.add(event.number)
                return Wait("not yet", timedelta())
            case "retry":
                self.failed.add(event.number)
                return Retry("it is raining")

    # What befalls it --------------------------------------------------------------------------

    async def unfold(self) -> None:
        """Publish events around the ends of runs: each must get one.

        Raises:
            AssertionError: one got none.
        """
        await self._publish("before")
        for _ in range(self.chance.randint(2, 4)):
            await self._until(self.began)
            self.began.clear()
            moment = self.chance.choice(MOMENTS[1:])
            await self._act(moment)
        self.free = True
        self.goes_on.set()

    async def _act(self, moment: Moment) -> None:
        match moment:
            case "during":
                await self._publish(moment)
                await self._a_while(0.05)
                self.goes_on.set()
            case "on its way":
                publishing = asyncio.create_task(self._publish(moment))
                await self._a_while(0.01)
                self.goes_on.set()
                await publishing
            case "at the end":
                self.goes_on.set()
                await self._publish(moment)
            case _:
                self.goes_on.set()
                await self._until(self.over)
                await self._a_while(0.01)
                await self._publish(moment)

    async def _publish(self, moment: Moment) -> None:
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            self.told.append(f"{self.changes} {moment}")
            event = ThingChanged(thing=self.thing, number=self.changes)
            self.changes += 1
            await self.host.publish(self.topic, event)

    async def _until(self, happened: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(happened.wait(), RUN_SECONDS)
        except TimeoutError:
            raise AssertionError(f"no run came: {self}") from None

    async def _a_while(self, seconds: float) -> None:
        await asyncio.sleep(self.chance.choice((0.0, self.chance.uniform(0, seconds))))

    # What came of it --------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether every change was seen by a run that ended well."""
        if self.topic is CHANGED:
            return bool(self.well) and self.well[-1] == self.changes - 1
        return len(self.well) >= self.changes

    def faults(self) -> list[str]:
        """Return what should not be: a run too many, or out of order."""
        if self.topic is ORDERED:
            right = self.well == [*range(self.changes)]
        else:
            right = self.well == sorted(self.well) and len(self.well) <= self.changes
        return [] if right else [str(self)]

    def __str__(self) -> str:
        return f"{self.thing} on {self.topic.name}: {self.told}, {self.runs} runs, well {self.well}"


def answers(stories: dict[str, Story]) -> Callable[[ThingChanged, Context[Ledger]], Awaitable[Any]]:
    """Return the handler that hands each event to its story."""

    async def answer(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return await stories[event.thing].run(event, ctx)

    return answer


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_event_that_arrives_around_the_end_of_a_run_always_gets_one(
    kafka_bootstrap: str, seed: int
) -> None:
    async with kafka_harness(kafka_bootstrap) as host:
        stories: dict[str, Story] = {}
        for number in range(STORIES):
            thing = host.thing(f"s{number}")
            topic = (CHANGED, ORDERED)[number % 2]
            stories[thing] = Story(host, thing, topic, random.Random(f"{seed}/{number}"))
        host.ledger.answer = answers(stories)

        # when events come before, in and at the ends of runs
        async with asyncio.TaskGroup() as together:
            for story in stories.values():
                together.create_task(story.unfold())
        with suppress(TimeoutError):
            await host.until(lambda: all(story.settled() for story in stories.values()))
        unsettled = [str(story) for story in stories.values() if not story.settled()]
        assert unsettled == []
        await host.committed(unfinished=0)
        # a run that was due has no offset: its entry goes once that is acknowledged

        def left() -> list[ScheduleEntry]:
            return [entry for one in stories.values() for entry in host.scheduled(one.thing)]

        with suppress(TimeoutError):
            await host.until(lambda: not left())

        # then each had a run that began after it came, one at a time, and none had two
        assert [fault for story in stories.values() for fault in story.faults()] == []
        assert host.ledger.overlaps == 0
        assert host.dead_letters() == []
        assert left() == []
        told = Counter(words.partition(" ")[2] for s in stories.values() for words in s.told)
        print(f"\nseed {seed}: {dict(told)}, {len(host.ledger.started)} runs")  # noqa: T201 - the figures
        assert min(told[moment] for moment in MOMENTS) >= STORIES / 2
