"""A rolling restart of named processes under load: nobody rebalances, nothing is done again."""

import asyncio

import pytest

from fire.scene import MakeScene, Member, Scene
from fire.service import ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(360)]

MEMBERS = 3
BURST = 40


async def load(scene: Scene, stopping: asyncio.Event) -> None:
    """Publish bursts until told to stop."""
    number = 0
    while not stopping.is_set():
        events = [ThingChanged(thing=f"k{thing}", number=number) for thing in range(BURST)]
        await scene.publish(scene.topics.ordered, events)
        number += 1
        await asyncio.sleep(0.1)


async def restarted(scene: Scene, member: Member, name: str) -> tuple[int, Member]:
    """Stop a member in the middle of something, start it again under its name, see it work."""
    pid = member.pid
    await scene.until(lambda h: bool(h.open_runs(pid)), 60, "it is in the middle of something")
    code = await member.stop()
    successor = scene.member(name)
    await scene.start(successor)
    await scene.until(
        lambda h: any(run.pid == successor.pid and run.ended for run in h.runs),
        60,
        "it works again",
    )
    return code, successor


async def test_a_rolling_restart_of_named_members_rebalances_nothing(scene_of: MakeScene) -> None:
    # given three named members at work, sessions as shipped
    scene = await scene_of(session_seconds=None)
    members = [scene.member(f"fire-{number}") for number in range(MEMBERS)]
    await scene.start(*members)
    stopping = asyncio.Event()
    loading = asyncio.create_task(load(scene, stopping))
    await scene.until(lambda h: h.finished > 10 * BURST, 60, "at work")
    async with asyncio.timeout(60):
        while not await scene.gathered(MEMBERS):  # noqa: ASYNC110 - a group tells only who asks
            await asyncio.sleep(0.2)
    before = (await scene.notes()).generations

    # when each is told to stop in the middle of work and starts again under its name
    exits: list[int] = []
    for number in range(MEMBERS):
        code, members[number] = await restarted(scene, members[number], f"fire-{number}")
        exits.append(code)
    stopping.set()
    await loading
    await scene.until(scene.settled, 60, "everything finished")

    # then the group is as it was, each ended well and in time, and nothing ran twice
    after = (await scene.notes()).generations
    repeats = await scene.repeats()
    print(f"\n{scene.count} records, generations {before} -> {after}; repeats: {repeats}")  # noqa: T201 - the figures
    assert before, "the broker kept nothing about the group"
    assert exits == [0] * MEMBERS
    assert after == before
    assert scene.lost() == []
    assert scene.history.overlaps == []
    assert scene.history.overtakings == []
    assert (repeats.unfinished, repeats.uncommitted) == (0, 0)
    assert repeats.wrong == ()
