"""Lanes: 10,000 short records of one partition, beside Confluent's Parallel Consumer."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import ledger, ours, peers, things
from benchmarks.ledger import Findings
from benchmarks.peers import Job, Peer, PeerMissing
from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import BenchError, Rig, module
from benchmarks.sizes import Sizes
from benchmarks.things import ThingChanged
from benchmarks.turns import Say, Turn, take

CONCURRENCY = 100
MOST_MS = 5
QUIET = "ours, LOG_LEVEL=warning"
METRICS = (
    Metric("committed", "s until committed"),
    Metric("finished", "s until the last handler ended"),
    Metric("records_per_second", "records/s", 0),
    Metric("cpu_seconds", "CPU s of its process"),
    Metric("overlaps", "same-key overlaps", 0),
    Metric("disordered", "out of order", 0),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What each side handles in one turn: `events`, in a topic that is fresh for every turn."""

    rig: Rig
    sizes: Sizes
    events: list[ThingChanged]

    async def ours(self, log_level: str = "info") -> Values:
        """Let our runtime handle it; journal on, as always."""
        topic = await self.rig.filled("things", self.events)
        path = self.rig.path("ledger")
        command = module("benchmarks.ours", "sleep", topic, len(self.events), path)
        env = self.rig.env(concurrency=CONCURRENCY, log_level=log_level)
        async with self.rig.process(OURS, command, env) as side:
            committed = await self.rig.all_committed(
                side, ours.NAME, topic, limit_seconds=self.sizes.limit_seconds
            )
            await side.wrote(path, self.sizes.limit_seconds)
            cpu = side.cpu_seconds()
        return _values(self._judge(OURS, path), committed) | cpu

    async def peer(self, peer: Peer, *, in_order: bool) -> Values:
        """Let another one handle it.

        Args:
            in_order: it promises the order of each key, and commits as often as we do.
        """
        topic, group = await self.rig.filled("things", self.events), self.rig.name("group")
        path = self.rig.path("ledger")
        job = Job(self.rig.kafka, topic, group, CONCURRENCY, len(self.events), path)
        committed = None
        async with self.rig.process(peer.name, peer.command(job)) as side:
            if in_order:
                committed = await self.rig.all_committed(
                    side, group, topic, limit_seconds=self.sizes.limit_seconds
                )
            await side.wrote(path, self.sizes.limit_seconds)
            cpu = side.cpu_seconds()
        return _values(self._judge(peer.name, path, in_order=in_order), committed) | cpu

    def _judge(self, name: str, path: Path, *, in_order: bool = True) -> Findings:
        findings = ledger.judge(ledger.read(path), records=len(self.events))
        problems = findings.problems(concurrency=CONCURRENCY, in_order=in_order)
        if problems:
            raise BenchError(f"{name}: {'; '.join(problems)}")
        return findings


def _values(findings: Findings, committed: int | None) -> Values:
    found: dict[str, float] = {
        "finished": findings.seconds,
        "records_per_second": findings.records / findings.seconds,
        "overlaps": findings.overlaps,
        "disordered": findings.disordered,
    }
    if committed is not None:
        found["committed"] = (committed - findings.began) / 1e9
    return found


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "lanes",
        f"Lanes: {sizes.lanes_records:,} records of 0-{MOST_MS} ms, one partition, {CONCURRENCY} at once",
        "Every side sleeps the same whole milliseconds for the same records and commits every "
        "0.5 s. The clock runs from the first handler entered until the broker shows a commit of "
        "all; the ledger of every turn is checked: each record once, in the order of its key.",
    )
    reference = None
    try:
        reference = await peers.parallel_consumer()
    except PeerMissing as missing:
        row.left_out.append(str(missing))
    others = await loose_peers(row)
    for keys in sizes.lanes_keys:
        case = Case(
            f"{keys:,} keys" if keys > 1 else "1 key",
            METRICS,
            "finished",
            (Bar("committed", 1.2), Bar("finished", 1.2)),
            peers.PARALLEL_CONSUMER,
        )
        work = Work(rig, sizes, things.even(sizes.lanes_records, keys=keys, most_ms=MOST_MS))
        sides: dict[str, Turn] = {OURS: work.ours}
        if reference is not None:
            sides[reference.name] = turn_of(work, reference, in_order=True)
        if keys == max(sizes.lanes_keys):
            sides[QUIET] = partial(work.ours, "warning")
            sides |= {peer.name: turn_of(work, peer, in_order=False) for peer in others}
        await take(case, sides, sizes, say)
        asleep = sum(event.sleep_ms for event in work.events) / 1_000
        case.notes.append(
            f"The sleeps alone: {asleep / min(CONCURRENCY, keys):.2f} s, if they filled every place"
        )
        row.cases.append(case)
    return row


async def loose_peers(row: Row) -> list[Peer]:
    """Return the peers that keep no order; one that is missing is named in the row."""
    found = []
    for find in (peers.faststream, peers.faust):
        try:
            found.append(await find())
        except PeerMissing as missing:
            row.left_out.append(str(missing))
    return found


def turn_of(work: Work, peer: Peer, *, in_order: bool) -> Turn:
    """Return a peer's turn."""
    return lambda: work.peer(peer, in_order=in_order)
