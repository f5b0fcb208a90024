"""A process says when it is stuck, and only then."""

import asyncio
import os
import signal

import pytest

from fire.scene import MakeScene, Member, Scene
from fire.service import ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(360)]

STUCK_SECONDS = 8.0
"""The limit of the processes of this file, a fifth of what is shipped."""

FOUND_SECONDS = STUCK_SECONDS * 1.5
"""Within this a process that is stuck says so, and one that is not would have."""

BLOCK_SECONDS = 14.0
SILENT_SECONDS = 40.0 + FOUND_SECONDS
"""Longer than every time-out of a client, the longest of which is 40 s, and its aftermath."""


async def watched(scenes: dict[Member, Scene], seconds: float) -> dict[str, list[str]]:
    """Return what `/healthz` first found wrong, and with whom; nothing within so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        for member, scene in scenes.items():
            if reasons := await scene.healthy(member):
                return {member.name: reasons}
        await asyncio.sleep(0.5)
    return {}


async def test_a_consumer_that_fetches_no_more_is_not_healthy(scene_of: MakeScene) -> None:
    # given a member at work
    scene = await scene_of(stuck_seconds=STUCK_SECONDS)
    member = scene.member()
    await scene.start(member)
    await scene.publish(scene.topics.ordered, [ThingChanged(thing="a", number=0)])
    await scene.until(scene.settled, 60, "it works")

    # when its fetches bring nothing any more, and records wait
    member.signal(signal.SIGUSR1)
    await scene.until(lambda _: scene.setup.silenced.exists(), 30, "a fetch hangs")
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing=f"a{n}", number=0) for n in range(100)]
    )

    # then it asks for a restart in time
    found = (await watched({member: scene}, FOUND_SECONDS)).get(member.name)
    assert found, "/healthz stays 200 although nothing is fetched"
    assert scene.setup.name in " ".join(found)
    assert scene.look().finished == 1


async def test_idle_waiting_and_full_members_are_healthy(scene_of: MakeScene) -> None:
    # given one with nothing to do, one whose only key waits, one that may take no more
    idle, waiting, full = [await scene_of(stuck_seconds=STUCK_SECONDS) for _ in range(3)]
    scenes = {scene.member(): scene for scene in (idle, waiting, full)}
    await asyncio.gather(*(scene.start(member) for member, scene in scenes.items()))
    await waiting.publish(
        waiting.topics.ordered, [ThingChanged(thing="w", number=0, deed="later", count=3600)]
    )
    await waiting.until(lambda h: "wait" in h.unfinished.values(), 60, "it waits")
    await full.publish(
        full.topics.ordered,
        [ThingChanged(thing=f"f{n % 200}", number=n // 200, deed="hold") for n in range(8_000)],
    )
    await full.until(lambda h: len(h.open_runs()) >= 64, 60, "all places are taken")

    # then none of them asks for a restart
    assert await watched(scenes, FOUND_SECONDS) == {}
    full.setup.gate.touch()
    await full.until(full.settled, 60, "the full one goes on")


async def test_a_broker_that_falls_silent_makes_nobody_unhealthy(scene_of: MakeScene) -> None:
    # given members at work
    scene = await scene_of(session_seconds=None, stuck_seconds=STUCK_SECONDS)
    members = {scene.member(): scene, scene.member(): scene}
    await scene.start(*members)
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing=f"s{n % 50}", number=n // 50) for n in range(500)]
    )

    # when the broker answers nothing at all, connections open
    broker = scene.stack.kafka.pid
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)
    try:
        found = await watched(members, SILENT_SECONDS)
    finally:
        os.kill(broker, signal.SIGCONT)

    # then nobody wants a restart for it, and all goes on when it answers again
    assert found == {}
    await scene.until(scene.settled, 90, "everything finished", alive=members)
    assert scene.lost() == []
    assert [str(overlap) for overlap in scene.history.overlaps] == []


async def test_a_handler_that_blocks_the_loop_is_named_and_writes_nothing_twice(
    scene_of: MakeScene,
) -> None:
    # given two members, and a handler that holds up its whole loop for over two sessions
    scene = await scene_of()
    members = [scene.member(), scene.member()]
    await scene.start(*members)
    await scene.publish(
        scene.topics.ordered,
        [ThingChanged(thing="b", number=0, deed="block", count=BLOCK_SECONDS)],
    )
    await scene.until(lambda h: bool(h.open_runs()), 60, "it blocks")
    pid = scene.history.open_runs()[0].pid
    guilty = next(member for member in members if member.pid == pid)

    # when the other has done it meanwhile and the block ends
    await scene.until(lambda h: bool(h.facts), 60, "somebody wrote")
    await scene.until(lambda h: not h.open_runs(), 60, "both runs ended")

    # then one of them wrote, and log and metrics name the culprit
    effects = [fact for fact in scene.look().facts if fact.kind == "effect"]
    assert len(effects) == 1
    await scene.metric(
        guilty, "bitbylaw_loop_lag_seconds_sum", lambda lag: lag >= BLOCK_SECONDS / 2
    )
    words = [
        line
        for line in guilty.lines()
        if line["level"] in ("warning", "error") and "loop" in line["event"]
    ]
    assert words, "no line of its log says that the loop was held up"
    assert any("Fire Order" in str(line) for line in words), words
