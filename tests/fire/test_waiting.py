"""What waits for its time survives kills and comes at its time, whatever the broker's clock says."""

import asyncio
import itertools
import re
from datetime import datetime

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from bitbylaw_common import topics
from bitbylaw_common.topics import PARTITIONS
from fire.ledger import SeenRun
from fire.scene import LOOK_SECONDS, MakeScene, Member, Scene
from fire.service import ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(360)]

RUNG_SECONDS = 6.0
SHIFTED_RUNG_SECONDS = 4.0
LATE_SECONDS = 3.5
"""How much later than it could, a busy machine may begin an attempt; less than any rung."""

POLLS = 40
WAITING = 20_000
LOADED_SECONDS = 3.0
TIMES_BARE = 6.0
"""Loading reads two topics, parses each entry and keeps it; a bare reader only counts."""


def of(scene: Scene, key: str) -> list[SeenRun]:
    """Return the runs of one key."""
    return [run for run in scene.look().runs if run.key == key]


async def attempted(scene: Scene, attempt: int) -> None:
    """Return once this attempt of anything ended."""
    await scene.until(
        lambda h: any(run.attempt == attempt and run.ended for run in h.runs),
        RUNG_SECONDS * 5,
        f"attempt {attempt}",
    )


async def kept(scene: Scene, attempt: int) -> None:
    """Return once the schedule holds that this attempt failed: a kill before makes it again."""
    async with asyncio.timeout(30):
        while not any(entry.attempt >= attempt for entry in await scene.waiting()):  # noqa: ASYNC110 - Kafka tells only who asks
            await asyncio.sleep(LOOK_SECONDS)


async def test_a_kill_during_back_off_changes_neither_the_time_nor_the_number_of_the_next_attempt(
    scene_of: MakeScene,
) -> None:
    # given a record whose first attempt failed
    scene = await scene_of(ladder=(RUNG_SECONDS,) * 5)
    first = scene.member("fire-0")
    await scene.start(first)
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing="a", number=0, deed="fail", count=2)]
    )
    await scene.until(lambda h: "retry" in h.unfinished.values(), 60, "the first attempt failed")
    await kept(scene, 1)

    # when its process is killed during the back-off, and during the next
    ready: list[float] = []
    for attempt in (2, 3):
        await scene.members[-1].kill()
        await scene.start(scene.member("fire-0"))
        ready.append(scene.now())
        await attempted(scene, attempt)
        if attempt == 2:
            await kept(scene, attempt)

    # then each attempt came once, in its turn, a rung after the one before
    runs = of(scene, "a")
    assert [(run.attempt, run.outcome) for run in runs] == [(1, "retry"), (2, "retry"), (3, "done")]
    in_time(runs, RUNG_SECONDS, ready)


def in_time(runs: list[SeenRun], rung: float, ready: list[float]) -> None:
    """Assert that each attempt came a rung after the one before.

    Args:
        ready: when the process that makes each later attempt had taken over; it cannot come before.
    """
    for (earlier, later), there in zip(itertools.pairwise(runs), ready, strict=True):
        assert earlier.ended is not None
        assert later.began - earlier.ended >= rung
        assert later.began < max(earlier.ended + rung, there) + LATE_SECONDS


async def test_forty_polls_count_no_attempt(scene_of: MakeScene) -> None:
    scene = await scene_of()
    await scene.start(scene.member("fire-0"))
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing="p", number=0, deed="poll", count=POLLS)]
    )
    await scene.until(lambda h: len(h.runs) > POLLS // 2, 60, "half of the polls")

    # when the process is killed in the middle of the waiting
    await scene.members[-1].kill()
    await scene.start(scene.member("fire-0"))
    await scene.until(lambda h: bool(h.runs) and h.runs[-1].outcome == "done", 60, "the last poll")

    # then every poll was a first attempt
    runs = of(scene, "p")
    assert POLLS <= len(runs) <= POLLS + 1
    assert {run.attempt for run in runs} == {1}
    assert await scene.dead_letters() == []


async def test_a_clock_five_minutes_from_the_broker_s_changes_no_pause(
    scene_of: MakeScene,
) -> None:
    async with asyncio.TaskGroup() as together:
        for shift in (-300.0, 300.0):
            scene = await scene_of(clock_shift=shift, ladder=(SHIFTED_RUNG_SECONDS,) * 5)
            together.create_task(pauses_stay(scene))


async def pauses_stay(scene: Scene) -> None:
    """Kill a process between two attempts; see that each comes a rung after the one before."""
    # given a service whose clock is off against its broker's, and a record that fails twice
    await scene.start(scene.member("fire-0"))
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing="c", number=0, deed="fail", count=2)]
    )
    await scene.until(lambda h: "retry" in h.unfinished.values(), 60, "the first attempt failed")
    await kept(scene, 1)

    # when it is killed in its back-off
    await scene.members[-1].kill()
    await scene.start(scene.member("fire-0"))
    ready = scene.now()
    await scene.until(lambda h: h.runs[-1].outcome == "done", 60, "the third attempt")

    # then the pauses are those of a machine whose clock is right
    runs = of(scene, "c")
    assert [run.attempt for run in runs] == [1, 2, 3]
    in_time(runs, SHIFTED_RUNG_SECONDS, [ready, ready])


async def test_20000_waiting_keys_load_in_a_few_times_the_time_of_a_bare_read(
    scene_of: MakeScene,
) -> None:
    # given 20,000 keys that wait, and a twin of the service that has none
    scene, twin = await scene_of(), await scene_of()
    await scene.start(scene.member("fire-0"))
    await scene.publish(
        scene.topics.ordered,
        [
            ThingChanged(thing=f"w{number}", number=0, deed="later", count=3600)
            for number in range(WAITING)
        ],
    )
    await scene.until(lambda h: len(h.unfinished) == WAITING, 120, "all wait")
    assert await scene.members[-1].stop() == 0

    # when both start, and a bare client reads what the one has to load
    full, empty = scene.member("fire-0"), twin.member("fire-0")
    await twin.start(empty)
    bare = await bare_read(scene)
    await scene.start(full)

    # then loading takes a few times the bare read, and little memory
    loading = taking_over(full) - taking_over(empty)
    grown = (full.resident_bytes() - empty.resident_bytes()) / 2**20
    print(  # noqa: T201 - the figures
        f"\n{WAITING} waiting keys: loaded in {loading:.2f} s, bare read {bare:.2f} s, "
        f"{loading / bare:.1f} times; {grown:.1f} MiB"
    )
    await scene.metric(full, "bitbylaw_schedule_entries", lambda count: count == WAITING)
    # what is promised of a machine of its own, and more where a bare client takes its time as well
    assert loading < max(LOADED_SECONDS, TIMES_BARE * bare)
    assert grown < 128


async def bare_read(scene: Scene) -> float:
    """Return how long a bare client takes to read the schedule and base topics to their ends."""
    loop = asyncio.get_running_loop()
    names = (topics.schedule(scene.setup.name).name, topics.base(scene.setup.name).name)
    places = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]
    began, count = loop.time(), 0
    consumer = AIOKafkaConsumer(
        **scene.connect,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * topics.MIB,
    )
    await consumer.start()
    try:
        consumer.assign(places)
        async with asyncio.timeout(60):
            while count < WAITING:
                batches = await consumer.getmany(timeout_ms=1000)
                count += sum(len(records) for records in batches.values())
        return loop.time() - began
    finally:
        await consumer.stop()


def taking_over(member: Member) -> float:
    """Return the seconds from the open port to the partitions taken over, by the log."""
    serving = member.said("serving")[0]["time"]
    taken = member.said("partitions taken over")[0]["time"]
    return (_instant(taken) - _instant(serving)).total_seconds()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(re.sub("Z$", "+00:00", text))
