"""A frozen process that goes on does nothing that its successor did; two of one name part ways."""

import asyncio
import random
import signal

import pytest

from bitbylaw_common import topics
from bitbylaw_common.kafka.codec import partition_of
from fire.scene import SESSION_SECONDS, MakeScene, Member, Scene
from fire.service import ThingBase, ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(360)]

EXIT_BROKEN = 70


async def frozen(scene: Scene, limit_seconds: float) -> Member:
    """Return the process that froze itself."""
    await scene.until(
        lambda history: any(fact.kind == "frozen" for fact in history.facts),
        limit_seconds,
        "a process froze itself",
    )
    pid = next(fact.pid for fact in scene.history.facts if fact.kind == "frozen")
    return next(member for member in scene.members if member.running and member.pid == pid)


async def taken_over(scene: Scene, key: str, victim: Member, kind: str) -> None:
    """Return once another process did it for the key."""
    await scene.until(
        lambda history: any(
            fact.kind == kind and fact.key == key and fact.pid != victim.pid
            for fact in history.facts
        ),
        SESSION_SECONDS * 10,
        f"another process did the {kind} of {key}",
    )


async def test_a_process_frozen_in_an_effect_writes_nothing_more_when_it_goes_on(
    scene_of: MakeScene, seed: int
) -> None:
    # given two processes, and one that freezes in the middle of a run's first write
    scene = await scene_of(seed=seed)
    await scene.start(scene.member(), scene.member())
    key = f"t{seed}"
    await scene.publish(scene.topics.ordered, [ThingChanged(thing=key, number=0, deed="effects")])
    victim = await frozen(scene, 60)

    # when the other has taken over and done it all, the frozen one goes on
    await taken_over(scene, key, victim, "effect")
    await scene.until(lambda h: "done" in {r.outcome for r in h.runs}, 60, "the successor is done")
    await asyncio.sleep(random.Random(seed).choice((0.0, 0.5, SESSION_SECONDS)))
    mark = len(scene.look().facts)
    victim.go_on()
    await scene.until(lambda h: not h.open_runs(victim.pid), 60, "the frozen run ended")

    # then it ends the write it was in, at most, and begins no other
    late = [f.word for f in scene.look().facts[mark:] if f.kind == "effect"]
    assert late in ([], ["first"])
    assert [f.word for f in scene.history.facts if f.kind == "effect"].count("second") == 1


async def test_a_process_frozen_before_its_second_write_leaves_it_to_the_new_owner(
    scene_of: MakeScene, seed: int
) -> None:
    # given a run whose process is frozen from outside while it pauses between two writes
    scene = await scene_of(seed=seed)
    await scene.start(scene.member(), scene.member())
    key = f"u{seed}"
    await scene.publish(scene.topics.ordered, [ThingChanged(thing=key, number=0, deed="gap")])
    await scene.until(lambda h: bool(h.open_runs()), 60, "the run began")
    pid = scene.history.open_runs()[0].pid
    victim = next(member for member in scene.members if member.pid == pid)
    await victim.freeze()

    # when the successor is at the same point and the frozen one goes on before it
    await scene.until(
        lambda h: any(run.pid != pid for run in h.open_runs()), SESSION_SECONDS * 10, "a successor"
    )
    victim.go_on()
    await scene.until(lambda h: not h.open_runs(), 60, "both runs ended")

    # then only the successor wrote
    written = [(f.pid, f.word) for f in scene.look().facts if f.kind == "effect"]
    assert len(written) == 1
    assert written[0][0] != pid


async def test_a_base_write_of_a_frozen_process_never_replaces_the_new_owner_s(
    scene_of: MakeScene, seed: int
) -> None:
    # given a process that freezes while it writes the base of a thing
    scene = await scene_of(seed=seed)
    await scene.start(scene.member(), scene.member())
    key = f"b{seed}"
    moment = random.Random(seed).choice([0.0, 0.0, 0.2, 0.5, 1.0, 2.0])
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing=key, number=0, deed="base", count=moment)]
    )
    victim = await frozen(scene, 60)

    # when the new owner wrote its own, also for what came later, and the frozen one goes on
    await taken_over(scene, key, victim, "base")
    await scene.publish(
        scene.topics.ordered, [ThingChanged(thing=key, number=1, deed="base", count=moment)]
    )
    await scene.until(lambda h: 1 in h.ended["Fire Order", key], 60, "the later record is done")
    victim.go_on()
    await scene.until(lambda h: not h.open_runs(victim.pid), 60, "the frozen run ended")
    await asyncio.sleep(5)  # what it sends may still be on its way; nothing tells when it is not

    # then the base is the new owner's, of the later record
    last = (await bases(scene, key))[-1]
    assert (last.number, last.pid) != (0, victim.pid)
    assert last.number == 1, [(base.number, base.pid) for base in await bases(scene, key)]


async def bases(scene: Scene, key: str) -> list[ThingBase]:
    """Return every base of a thing in the log, as readers of committed records see them."""
    place = (topics.base(scene.setup.name).name, partition_of(key.encode()))
    wanted = f"thing:{key}".encode()
    return [
        ThingBase.from_bytes(record.value)
        async for record in scene.log.read({place: 0})
        if record.key == wanted and record.value is not None
    ]


async def test_of_two_processes_of_one_name_one_gives_way_and_the_other_works_on(
    scene_of: MakeScene, seed: int
) -> None:
    # given a process with a name of its own, at work
    scene = await scene_of(seed=seed)
    first = scene.member("fire-0")
    await scene.start(first)
    things = [ThingChanged(thing=f"n{number}", number=0) for number in range(100)]
    await scene.publish(scene.topics.ordered, things)

    # when another starts under the same name
    second = scene.member("fire-0")
    await second.start()
    endings = {asyncio.create_task(one.ended(60)): one for one in (first, second)}
    done, late = await asyncio.wait(endings, timeout=60, return_when=asyncio.FIRST_COMPLETED)

    # then one ends with the code that asks for attention, and the other goes on with the work
    for task in late:
        task.cancel()
    assert done, "both go on, and fight"
    assert [task.result() for task in done] == [EXIT_BROKEN]
    assert len(late) == 1, "both ended"
    more = [ThingChanged(thing=f"n{number}", number=1) for number in range(100)]
    await scene.publish(scene.topics.ordered, more)
    await scene.until(scene.settled, 60, "the other works on")
    assert scene.history.overlaps == []


async def test_a_process_frozen_for_two_sessions_goes_on_as_a_member_like_others(
    scene_of: MakeScene, seed: int
) -> None:
    # given two processes at work
    scene = await scene_of(seed=seed)
    members = (scene.member(), scene.member())
    await scene.start(*members)
    chance = random.Random(seed)
    victim = members[chance.randrange(2)]

    # when one is frozen for two sessions in the middle of it, and goes on
    for number in range(3):
        await scene.publish(
            scene.topics.ordered,
            [ThingChanged(thing=f"m{thing}", number=number) for thing in range(200)],
        )
        if number == 0:
            await asyncio.sleep(chance.uniform(0, 0.2))
            await victim.freeze()
            await asyncio.sleep(2 * SESSION_SECONDS)
        if number == 1:
            victim.go_on()
    await scene.until(scene.settled, 60, "everything finished")

    # then nothing is lost or out of order, and no two worked on one thing once both were awake
    assert scene.lost() == []
    assert scene.history.overtakings == []
    assert [str(overlap) for overlap in scene.history.overlaps] == []
    assert all(member.running for member in members)
    victim.signal(signal.SIGTERM)
    assert await victim.ended(60) == 0
