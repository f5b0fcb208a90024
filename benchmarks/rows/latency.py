"""Latency: from a webhook's answer to its handler, beside one bare consumer loop."""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks import ledger, ours
from benchmarks.results import OURS, Bar, Case, Metric, Row, Values, quantile
from benchmarks.rig import BenchError, Rig, Side, module
from benchmarks.rows.ingest import ingest, load
from benchmarks.sizes import Sizes
from benchmarks.turns import Say, take
from bitbylaw_common import topics

BARE = "bare aiokafka loop"
JOURNALLING = "the loop with a journal"
TOPIC = topics.DOCUMENT_UPDATE.name
METRICS = (
    Metric("p50_ms", "p50 ms, answered to entered"),
    Metric("p99_ms", "p99 ms, answered to entered"),
    Metric("sent_p50_ms", "p50 ms, sent to entered"),
    Metric("sent_p99_ms", "p99 ms, sent to entered"),
)


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "latency",
        f"Webhook answered to handler entered, {sizes.latency_rate} events/s",
        "The real ingest takes the posts in every turn; what differs is who reads its topic: our "
        "runtime with its journal, or one consumer in a loop, with a journal of the plainest kind "
        "or with none. The loop with a journal does the same work, the one without shows what a "
        "journal costs anybody; we are compared with both. A handler may be entered before the "
        "answer has reached the sender: such an event counts as it is, below zero. Where the "
        "reference is below zero there is no ratio, so the whole way, sent to entered, is judged "
        "as well.",
    )
    bars = tuple(
        Bar(metric.key, 1.5, reference=reference) for reference in ("", BARE) for metric in METRICS
    )
    case = Case("latency", METRICS, "sent_p99_ms", bars, JOURNALLING)
    row.cases.append(case)
    seconds = sizes.warm_seconds + sizes.latency_seconds
    # microseconds: numbers that no earlier post to this topic had
    first, posts = time.time_ns() // 1_000, int(seconds * sizes.latency_rate)
    async with ingest(rig) as edge:

        async def post_and_wait(side: Side, path: Path, start: int) -> Values:
            answered = rig.path("answered")
            words = (
                *("--seconds", sizes.latency_seconds, "--warm-seconds", sizes.warm_seconds),
                *("--rate", sizes.latency_rate, "--first", start, "--answered", answered),
            )
            await load(rig, await edge.url(), words, limit_seconds=sizes.limit_seconds)
            await side.wrote(path, sizes.limit_seconds)
            counted = range(start + int(sizes.warm_seconds * sizes.latency_rate), start + posts)
            return _values(_moments(answered), path, counted)

        async def we() -> Values:
            nonlocal first
            start, first = first, first + posts
            path = rig.path("ledger")
            command = module("benchmarks.ours", "enter", posts, path, start)
            async with rig.process(OURS, command, rig.env()) as side:
                await side.ready()
                await rig.all_committed(side, ours.NAME, TOPIC, limit_seconds=sizes.limit_seconds)
                return await post_and_wait(side, path, start)

        async def a_loop(name: str, *options: str) -> Values:
            nonlocal first
            start, first = first, first + posts
            path, ready = rig.path("ledger"), rig.path("ready")
            words = (rig.kafka, TOPIC, rig.name("group"), posts, path, ready, *options)
            async with rig.process(name, module("benchmarks.bare_loop", *words)) as side:
                await side.wrote(ready, sizes.limit_seconds)
                return await post_and_wait(side, path, start)

        sides: dict[str, Callable[[], Awaitable[Values]]] = {
            OURS: we,
            JOURNALLING: partial(a_loop, JOURNALLING, "--journal", topics.JOURNAL.name),
            BARE: partial(a_loop, BARE),
        }
        await take(case, sides, sizes, say)
    return row


def _moments(answered: Path) -> dict[int, tuple[int, int]]:
    """Return when each post left and when it was answered, in nanoseconds since the epoch."""
    lines = map(str.split, answered.read_text("utf-8").splitlines())
    return {int(number): (int(sent), int(at)) for number, sent, at in lines}


def _values(moments: Mapping[int, tuple[int, int]], path: Path, counted: range) -> Values:
    entered = {run.number: run.began for run in ledger.read(path)}
    if missing := [number for number in counted if number not in entered]:
        raise BenchError(f"{len(missing)} events never arrived")
    after_answer = [(entered[number] - moments[number][1]) / 1e6 for number in counted]
    after_post = [(entered[number] - moments[number][0]) / 1e6 for number in counted]
    return {
        "p50_ms": quantile(after_answer, 0.5),
        "p99_ms": quantile(after_answer, 0.99),
        "sent_p50_ms": quantile(after_post, 0.5),
        "sent_p99_ms": quantile(after_post, 0.99),
    }
