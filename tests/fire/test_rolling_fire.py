"""Processes come, go and are killed, the broker starts anew: nothing lost, nothing out of order."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from fire.ledger import History
from fire.scene import LOOK_SECONDS, MakeScene, Member, Scene
from fire.service import ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

KEYS_PER_RECORD = 1 / 50
"""100,000 records over 2,000 keys."""

STEP = "Fire Order"
FINISH_SECONDS = 120.0
DEED_SECONDS = 3.0
"""How long records flow from one deed to the next, at least."""

RECORDS_PER_SECOND = 1_666
BURST = 100
BURSTS = 75
COALESCED_EACH = 10
"""Every tenth event also goes where one run answers for all that waits."""


@dataclass
class Storm:
    """What befalls the processes of one scene, as its seed says.

    Attributes:
        told: every deed, for the report of a seed that failed.
        exits: the exit codes of those that were stopped in order.
        release: of those that join from now on.
        allowed: how many records may flow before the next deed is done, so that none comes when
            all is over.
        flowed: how many did.
    """

    scene: Scene
    random: random.Random
    running: list[Member] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    release: int = 1
    allowed: int = 0
    flowed: int = 0

    async def join(self) -> None:
        """Start one more."""
        member = self.scene.member(release=self.release)
        await self.scene.start(member)
        self.running.append(member)
        self._tell(f"{member.name} joined (pid {member.pid})")

    async def terminate(self) -> None:
        """End one in order."""
        member = self._one()
        self._tell(f"{member.name} gets SIGTERM")
        self.exits.append(await member.stop())

    async def kill(self) -> None:
        """Kill one in the middle of its work."""
        member = self._one()
        self._tell(f"{member.name} gets SIGKILL")
        await member.kill()

    async def restart_broker(self) -> None:
        """Take Kafka away and give it back, in order or as a crash."""
        crash = self.random.random() < 0.5
        kafka = self.scene.stack.kafka
        self._tell("the broker crashes" if crash else "the broker stops")
        down = self.scene.now()
        await (kafka.kill() if crash else kafka.stop())
        await asyncio.sleep(self.random.uniform(0, 3))
        await kafka.start()
        self.scene.outages.append((down, self.scene.now()))
        self._tell("the broker is back")

    async def replace(self) -> None:
        """End the oldest in order and start another in its place."""
        oldest = self.running.pop(0)
        self._tell(f"{oldest.name} gets SIGTERM")
        self.exits.append(await oldest.stop())
        await self.join()

    async def lose_redis(self) -> None:
        """Take Redis away."""
        self._tell("Redis crashes")
        await self.scene.stack.redis.kill()

    async def find_redis(self) -> None:
        """Give Redis back, for the tests that follow."""
        if self.scene.stack.redis.pid is None:
            await self.scene.stack.redis.start()

    async def end(self) -> None:
        """Stop the rest in order."""
        while self.running:
            await self.terminate()

    def _one(self) -> Member:
        return self.running.pop(self.random.randrange(len(self.running)))

    def _tell(self, what: str) -> None:
        finished = self.scene.look().finished
        self.told.append(f"{self.scene.now():.3f}: {finished} finished, {what}")


def events(scene: Scene, count: int, seed: int) -> list[ThingChanged]:
    """Return events whose numbers rise by one per key, keys in random order."""
    chance = random.Random(seed)
    keys = max(2, int(count * KEYS_PER_RECORD))
    last: dict[str, int] = {}
    found: list[ThingChanged] = []
    for _ in range(count):
        thing = f"k{chance.randrange(keys)}"
        last[thing] = last.get(thing, -1) + 1
        found.append(ThingChanged(thing=thing, number=last[thing]))
    return found


async def flow(storm: Storm, found: list[ThingChanged], seconds: float) -> None:
    """Publish in bursts, over so many seconds at least, whatever the broker does meanwhile."""
    scene, size = storm.scene, max(1, min(BURST, len(found) // BURSTS))
    for first in range(0, len(found), size):
        while first > storm.allowed:  # noqa: ASYNC110 - it is looked at as often as anything here
            await asyncio.sleep(LOOK_SECONDS)
        burst = found[first : first + size]
        await scene.publish(scene.topics.ordered, burst)
        storm.flowed += len(burst)
        await scene.publish(scene.topics.changed, burst[::COALESCED_EACH])
        await asyncio.sleep(seconds * size / len(found))


def at_work(share: int, storm: Storm, history: History) -> bool:
    """Whether so many records are finished, and something is in the middle of it, if it can be."""
    finished = sum(len(well) for (step, _), well in history.well.items() if step == STEP)
    return finished >= share and (bool(history.open_runs()) or finished >= storm.flowed)


async def weather(storm: Storm, deeds: list[Callable[[], Awaitable[None]]], count: int) -> None:
    """Do one deed after the other, each in the middle of work, when its share is finished."""
    for number, deed in enumerate(deeds, start=1):
        share, after = (count * n // (len(deeds) + 1) for n in (number, number + 1))
        storm.allowed = after
        await storm.scene.until(
            functools.partial(at_work, share, storm),
            FINISH_SECONDS + count / 100,
            f"{share} records finished and one at work, after {storm.told[-1:]}",
        )
        await asyncio.sleep(storm.random.uniform(0, 0.02))
        await deed()
    storm.allowed = count


async def under_fire(storm: Storm, deeds: list[Callable[[], Awaitable[None]]], count: int) -> None:
    """Let records flow, do the deeds, judge what came of it."""
    found = events(storm.scene, count, storm.random.randrange(2**32))
    seconds = max(DEED_SECONDS * (len(deeds) + 1), count / RECORDS_PER_SECOND)
    async with asyncio.TaskGroup() as together:
        together.create_task(flow(storm, found, seconds))
        together.create_task(weather(storm, deeds, count))
    await judge(storm, count)


async def judge(storm: Storm, count: int) -> None:
    """Wait for the end, then ask everything that was promised."""
    scene = storm.scene
    await scene.until(scene.settled, FINISH_SECONDS + count / 100, "everything finished")
    await storm.end()
    history = scene.look()
    repeats = await scene.repeats()
    print(f"\n{count} records, {len(history.runs)} runs; repeats: {repeats}")  # noqa: T201 - the figures
    print("\n".join(storm.told))  # noqa: T201 - likewise

    assert scene.lost() == []
    assert [str(overlap) for overlap in history.overlaps] == []
    assert history.overtakings == []
    assert repeats.wrong == (), "\n".join(repeats.wrong)
    assert await scene.waiting() == []
    assert await scene.dead_letters() == []
    assert set(storm.exits) <= {0}, storm.exits


async def test_kills_stops_and_a_broker_that_starts_anew_lose_and_disorder_nothing(
    scene_of: MakeScene, seed: int, records: int
) -> None:
    scene = await scene_of(seed=seed)
    storm = Storm(scene, random.Random(seed))
    await storm.join()
    middle = [storm.kill, storm.restart_broker, storm.join, storm.terminate, storm.join]
    storm.random.shuffle(middle)
    ends = [storm.terminate, storm.kill]
    storm.random.shuffle(ends)

    await under_fire(storm, [storm.join, storm.join, *middle, *ends], records)


async def test_without_redis_nothing_is_lost_or_done_by_two(
    scene_of: MakeScene, seed: int, records: int
) -> None:
    scene = await scene_of(seed=seed, lock=True)
    storm = Storm(scene, random.Random(seed))
    await storm.join()
    try:
        await under_fire(
            storm,
            [storm.join, storm.lose_redis, storm.join, storm.kill, storm.terminate],
            records,
        )
    finally:
        await storm.find_redis()


async def test_a_release_with_a_new_topic_rolls_over_three_members(
    scene_of: MakeScene, seed: int, records: int
) -> None:
    # given three members of the old release
    scene = await scene_of(seed=seed)
    storm = Storm(scene, random.Random(seed))
    for _ in range(3):
        await storm.join()

    # when each makes room for one that subscribes to a topic more, which has records already
    added = [ThingChanged(thing=f"k{n % 40}", number=n // 40) for n in range(400)]
    await scene.publish(scene.topics.added, added)
    storm.release = 2

    # then the old topic's records are worked on all the while, and the new one's as well
    await under_fire(storm, [storm.replace, storm.replace, storm.replace], records)
