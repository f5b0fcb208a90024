"""A key that does not get on holds up nobody else, and costs only itself after a kill."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from bitbylaw_cli import lagging
from bitbylaw_cli.connection import Environment
from bitbylaw_cli.lag_model import Finding
from bitbylaw_cli.lag_reading import open_looks
from bitbylaw_cli.lagging import judge
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.kafka.codec import partition_of
from fire.repeats import COMMIT_MARGIN_SECONDS
from fire.scene import MakeScene, Scene
from fire.service import ThingChanged

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(360)]

STEP = "Fire Order"
BLOCKED = "blocked"
BEHIND, OTHERS = 5_000, 999
STUCK_SECONDS = 5.0
"""What `bbl lag` goes by here; it is shipped with half a minute."""

LIMIT_MIB = 96
"""64 MiB of records may be held, and what Python needs to hold them."""


def neighbours(key: str) -> Iterator[str]:
    """Yield keys that lie in the same partition."""
    home = partition_of(key.encode())
    return (
        name
        for number in itertools.count()
        if partition_of((name := f"n{number}").encode()) == home
    )


async def stuck(scene: Scene) -> Finding:
    """Return what `bbl lag` makes of a key that takes long, once it does."""
    env = Environment({"KAFKA_BOOTSTRAP_SERVERS": scene.stack.kafka.bootstrap_servers}, "the test")
    async with asyncio.timeout(60), open_looks(env, SystemClock()) as looks:
        while True:
            (seen,) = await looks.at([scene.setup.name])
            for finding in judge(seen).findings:
                if finding.verdict == "stuck":
                    return finding
            await asyncio.sleep(1)


async def test_5000_records_behind_a_blocked_one_hold_up_no_other_key(
    scene_of: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lagging, "STUCK_SECONDS", STUCK_SECONDS)
    # given a key that does not get on, with 5,000 records behind it
    scene = await scene_of(slow_ms=2, failing=0)
    member = scene.member()
    await scene.start(member)
    before = member.resident_bytes()
    (blocked,) = await scene.publish(
        scene.topics.ordered, [ThingChanged(thing=BLOCKED, number=0, deed="hold")]
    )
    await scene.until(lambda h: bool(h.open_runs()), 60, "the blocked run began")
    await scene.publish(
        scene.topics.ordered,
        [ThingChanged(thing=BLOCKED, number=number) for number in range(1, BEHIND + 1)],
    )

    # when 999 other keys of the same partition come after them
    names = list(itertools.islice(neighbours(BLOCKED), OTHERS))
    await scene.publish(scene.topics.ordered, [ThingChanged(thing=n, number=0) for n in names])

    # then they all finish meanwhile, in bounded memory
    wanted = {(STEP, name) for name in names}
    await scene.until(
        lambda h: wanted <= h.ended.keys() and not wanted & h.unfinished.keys(),
        60,
        "all other keys finished",
    )
    assert [run.key for run in scene.history.open_runs()] == [BLOCKED]
    grown = (member.resident_bytes() - before) / 2**20
    print(f"\nwith {BEHIND} records held: {grown:.1f} MiB more than before")  # noqa: T201 - the figure
    assert grown < LIMIT_MIB
    assert await scene.healthy(member) == []

    # and who asks how things stand is told which key and which record it is, and not too early
    finding = await stuck(scene)
    assert finding.since is not None
    assert scene.now() - finding.since.timestamp() >= STUCK_SECONDS
    assert (finding.step, finding.entity_id) == (STEP, BLOCKED)
    assert finding.record == f"{blocked.topic}:{blocked.partition}:{blocked.offset}"

    # and the blocked key goes on in its order once it can
    scene.setup.gate.touch()
    await scene.until(scene.settled, 90, "the blocked key finished")
    assert scene.history.overtakings == []
    assert scene.history.overlaps == []


async def test_after_a_kill_only_the_blocked_key_runs_again(scene_of: MakeScene) -> None:
    # given a blocked key, and others behind it in its partition that are done and committed
    scene = await scene_of()
    member = scene.member("fire-0")
    await scene.start(member)
    names = list(itertools.islice(neighbours(BLOCKED), 300))
    await scene.publish(
        scene.topics.ordered,
        [
            ThingChanged(thing=BLOCKED, number=0, deed="hold"),
            *(ThingChanged(thing=name, number=0) for name in names),
        ],
    )
    await scene.until(
        lambda h: len(h.ended) == len(names) and set(h.unfinished.values()) <= {"retry"},
        60,
        "the others finished",
    )
    await scene.until(lambda h: not h.unfinished, 60, "and those that failed succeeded")
    await asyncio.sleep(
        COMMIT_MARGIN_SECONDS
    )  # a commit goes every half second; it has no sign of its own outside

    # when the process is killed and comes back
    await member.kill()
    scene.setup.gate.touch()
    successor = scene.member("fire-0")
    await scene.start(successor)
    await scene.until(scene.settled, 60, "everything finished")
    assert await successor.stop() == 0

    # then nothing but the blocked run was made again
    scene.look()
    again = [(later.key, later.number) for _, later in scene.history.repeats()]
    repeats = await scene.repeats()
    print(f"\nrepeats: {repeats}")  # noqa: T201 - the figure
    assert again == [(BLOCKED, 0)]
    assert repeats.wrong == ()
