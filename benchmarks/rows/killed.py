"""Kills: the process is killed again and again; what runs again is counted, and what it writes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import ours, things
from benchmarks.outside import Outside, Run
from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import LOOK_SECONDS, BenchError, Rig, Side, module
from benchmarks.sizes import Sizes
from benchmarks.things import ThingChanged
from benchmarks.turns import Say, take
from bitbylaw_common.runtime.offsets import Commit, decoded
from bitbylaw_common.topics import PARTITIONS

KEYS = 500
MOST_MS = 20
CONCURRENCY = 64

METRICS = (
    Metric("again", "runs again", 0),
    Metric("unfinished", "of them unfinished when killed", 0),
    Metric("uncommitted", "of them finished and not committed", 0),
    Metric("committed", "of them committed", 0),
    Metric("writes_again", "writes by runs again", 0),
    Metric("lost", "records never handled", 0),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill.

    Attributes:
        at: when the process was gone, nanoseconds since the epoch.
        committed: the numbers of the records that the commits at the broker call finished.
    """

    at: int
    committed: frozenset[int]


def count(runs: Sequence[Run], kills: Sequence[Kill], *, records: int) -> Values:
    """Return what ran again, by what the kill before it had left of the earlier run (pure).

    Args:
        runs: in the order they began.
        kills: in their order.
    """
    earlier: dict[int, Run] = {}
    found = dict.fromkeys(("again", "unfinished", "uncommitted", "committed", "writes_again"), 0.0)
    wrote: set[int] = set()
    for run in runs:
        before = earlier.get(run.number)
        if before is not None:
            found["again"] += 1
            found[_left(before, run, kills)] += 1
        found["writes_again"] += run.wrote and run.number in wrote
        if run.wrote:
            wrote.add(run.number)
        earlier[run.number] = run
    handled = sum(run.ended is not None for run in earlier.values())
    return found | {"lost": float(records - handled)}


def _left(before: Run, run: Run, kills: Sequence[Kill]) -> str:
    """Return what was left of `before`; without a kill in between it should not run again at all."""
    between = [kill for kill in kills if before.began <= kill.at <= run.began]
    if not between or any(run.number in kill.committed for kill in between):
        return "committed"
    return "unfinished" if before.ended is None else "uncommitted"


def finished(commits: Mapping[int, tuple[int, str]], places: Mapping[int, list[int]]) -> set[int]:
    """Return the numbers of the records that commits call finished (pure).

    Args:
        commits: offset and metadata by partition.
        places: by partition, the numbers of the records at the offsets from 0.
    """
    found: set[int] = set()
    for partition, (offset, metadata) in commits.items():
        numbers = places[partition]
        end, owed = decoded(Commit(offset, metadata)) or (offset, ())
        unfinished = frozenset(owed)
        found.update(numbers[:offset])
        found.update(numbers[at] for at in range(offset, end) if at not in unfinished)
    return found


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "killed",
        f"Run again after {sizes.kills} times kill -9: {sizes.killed_records:,} records, {CONCURRENCY} at once",
        f"{KEYS} keys in all partitions, 0-{MOST_MS} ms each. The handler looks at an outside "
        "ledger that survives, and writes what is missing. What the kill left of a run is judged "
        "by the commits that the broker held then, offset and metadata; a record they call "
        "finished must not run again.",
    )
    bars = tuple(Bar(key, 0, "value") for key in ("committed", "writes_again", "lost"))
    case = Case("killed", METRICS, "again", bars)
    row.cases.append(case)
    events = things.even(
        sizes.killed_records, keys=min(KEYS, sizes.killed_records), most_ms=MOST_MS, partition=None
    )

    async def we() -> Values:
        topic = await rig.filled("things", events)
        places = await _places(rig, topic)
        path = rig.path("outside")
        outside = Outside.open(path)
        command = module("benchmarks.ours", "write", topic, path)
        # the name makes membership static: who comes back takes its partitions at once
        env = rig.env(concurrency=CONCURRENCY) | {"BBL_INSTANCE": rig.name("instance")}
        kills: list[Kill] = []
        try:
            for number in range(1, sizes.kills + 1):
                async with rig.process(OURS, command, env) as side:
                    wanted = len(events) * number // (sizes.kills + 1)
                    await _kill(side, outside, wanted=wanted, limit_seconds=sizes.limit_seconds)
                    gone = time.time_ns()
                    commits = await rig.commits(ours.NAME, topic)
                    kills.append(Kill(gone, frozenset(finished(commits, places))))
            async with rig.process(OURS, command, env) as side:
                await rig.all_committed(side, ours.NAME, topic, limit_seconds=sizes.limit_seconds)
            return count(outside.runs(), kills, records=len(events))
        finally:
            outside.close()

    await take(case, {OURS: we}, sizes, say)
    return row


async def _places(rig: Rig, topic: str) -> dict[int, list[int]]:
    """Return where every record lies; see `finished`."""
    places: dict[int, list[int]] = {number: [] for number in range(PARTITIONS)}
    async for record in rig.log.read({(topic, number): 0 for number in places}):
        numbers = places[record.partition]
        if record.value is None or record.offset != len(numbers):
            raise BenchError(f"{topic} does not hold one record at each offset")
        numbers.append(ThingChanged.model_validate_json(record.value).number)
    return places


async def _kill(side: Side, outside: Outside, *, wanted: int, limit_seconds: float) -> None:
    """Kill the side once so many records are handled.

    Raises:
        BenchError: they were not within the limit, or it ended by itself, or lives on.
    """
    deadline = time.monotonic() + limit_seconds
    while outside.handled() < wanted:
        side.must_run()
        if time.monotonic() > deadline:
            raise side.late(f"handle {wanted} records", limit_seconds)
        await asyncio.sleep(LOOK_SECONDS)
    await side.process.kill()
    if side.process.running:
        raise BenchError(f"{side.name} could not be killed")
