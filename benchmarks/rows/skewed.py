"""Skewed keys: a few records change all the time; no more than the longest of them may be waited for."""

from collections import Counter

from benchmarks import peers, things
from benchmarks.peers import PeerMissing
from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import Rig
from benchmarks.rows.lanes import CONCURRENCY, METRICS, Work, loose_peers, turn_of
from benchmarks.sizes import Sizes
from benchmarks.turns import Say, Turn, take

EXPONENT = 0.7
ALONE = "ours, the longest key alone"
BOUND = Metric("over_bound", "x the bound", 3)


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    sleep_ms = sizes.skewed_sleep_ms
    events = things.skewed(
        sizes.skewed_records, keys=sizes.skewed_keys, exponent=EXPONENT, sleep_ms=sleep_ms
    )
    ((longest, length),) = Counter(event.thing for event in events).most_common(1)
    chain = [event for event in events if event.thing == longest]
    alone_events = [
        event.model_copy(update={"number": number}) for number, event in enumerate(chain)
    ]
    row = Row(
        "skewed",
        f"Skewed keys: {len(events):,} events of {sleep_ms} ms, Zipf {EXPONENT:g}, {CONCURRENCY} at once",
        f"{len({event.thing for event in events}):,} keys in all partitions; the longest has "
        f"{length} events. The bound is the greater of all sleeps divided by {CONCURRENCY} and of "
        "that key's events handled by us alone, in the turn before.",
    )
    case = Case("skewed", (BOUND, *METRICS), "finished", (Bar("over_bound", 1.1, "value"),))
    row.cases.append(case)
    work, alone = Work(rig, sizes, events), Work(rig, sizes, alone_events)
    spread = len(events) * sleep_ms / 1_000 / CONCURRENCY
    bound = 0.0

    async def the_longest() -> Values:
        nonlocal bound
        values = await alone.ours()
        bound = max(spread, values["finished"])
        return values

    async def all_of_it() -> Values:
        values = await work.ours()
        return dict(values) | {"over_bound": values["finished"] / bound}

    sides: dict[str, Turn] = {ALONE: the_longest, OURS: all_of_it}
    try:
        sides[peers.PARALLEL_CONSUMER] = turn_of(
            work, await peers.parallel_consumer(), in_order=True
        )
    except PeerMissing as missing:
        row.left_out.append(str(missing))
    sides |= {peer.name: turn_of(work, peer, in_order=False) for peer in await loose_peers(row)}
    await take(case, sides, sizes, say)
    case.notes.append(
        f"All sleeps divided by {CONCURRENCY}: {spread:.2f} s; the longest key's sleeps: "
        f"{length * sleep_ms / 1_000:.2f} s"
    )
    return row
