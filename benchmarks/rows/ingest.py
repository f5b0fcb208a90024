"""Ingest: posts of 1 KB, one event each, beside aiohttp and aiokafka alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from benchmarks import webhooks
from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import BenchError, Rig, Side, module, program
from benchmarks.sizes import Sizes
from benchmarks.things import topic as thing_topic
from benchmarks.turns import Say, take
from bitbylaw_common import topics

BARE = "bare aiohttp + aiokafka"
METRICS = (
    Metric("posts_per_second", "posts/s", 0),
    Metric("p50_ms", "p50 ms"),
    Metric("p99_ms", "p99 ms"),
    Metric("cpu_ms_per_post", "CPU ms per post", 3),
    Metric("load_busy", "share of a core that the load took"),
)


@asynccontextmanager
async def ingest(rig: Rig) -> AsyncIterator[Side]:
    """Run the real ingest."""
    await rig.make(tuple(topics.catalogue()))
    env = rig.env() | {
        "ESPOCRM_WEBHOOK_SECRETS": f"{webhooks.WEBHOOK_ID}={webhooks.SECRET}",
    }
    async with rig.process("ingest", [program("bitbylaw-ingest")], env) as side:
        await side.ready()
        yield side


@asynccontextmanager
async def bare(rig: Rig) -> AsyncIterator[tuple[Side, str]]:
    """Run the reference; with it comes the topic it fills."""
    topic = rig.name("posts")
    await rig.make([thing_topic(topic)])
    words = (rig.kafka, topic, webhooks.ROUTE, webhooks.SECRET)
    async with rig.process(BARE, module("benchmarks.bare_ingest", *words)) as side:
        await side.url()
        yield side, topic


async def load(
    rig: Rig, url: str, words: Sequence[object], *, limit_seconds: float
) -> dict[str, Any]:
    """Let the load post; return what it says.

    Raises:
        BenchError: it failed, or a post was not answered 200.
    """
    process = await asyncio.create_subprocess_exec(
        *module("benchmarks.load", url, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_seconds):
            told, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BenchError(f"the load failed: {complaint.decode()}")
    found: dict[str, Any] = json.loads(told)
    if found["stored"] != found["answers"]:
        raise BenchError(f"{found['answers'] - found['stored']} posts were not answered 200")
    return found


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "ingest",
        f"Ingest: posts of {webhooks.BODY_BYTES:,} bytes, one event each",
        f"{sizes.connections} connections post as soon as they are answered, for "
        f"{sizes.ingest_seconds:g} s after {sizes.warm_seconds:g} s that do not count. Both check "
        "the same signature, validate, and wait for all replicas. Broker, load and server share "
        "the machine; what was answered 200 is counted in the topic afterwards.",
    )
    case = Case(
        "ingest",
        METRICS,
        "posts_per_second",
        (Bar("posts_per_second", 0.9, at_least=True), Bar("p99_ms", 3.0)),
        BARE,
    )
    row.cases.append(case)
    async with AsyncExitStack() as opened:
        our_side = await opened.enter_async_context(ingest(rig))
        bare_side, bare_topic = await opened.enter_async_context(bare(rig))

        async def post(side: Side, topic: str) -> Values:
            before, busy = sum((await rig.ends(topic)).values()), side.cpu_seconds()
            words = (
                *("--connections", sizes.connections),
                *("--seconds", sizes.ingest_seconds),
                *("--warm-seconds", sizes.warm_seconds),
            )
            found = await load(rig, await side.url(), words, limit_seconds=sizes.limit_seconds)
            stored = sum((await rig.ends(topic)).values()) - before
            if stored != found["answers"]:
                raise BenchError(f"{side.name}: {found['answers']} answers, {stored} records")
            values = {key: found[key] for key in ("posts_per_second", "p50_ms", "p99_ms")}
            if busy:
                spent = side.cpu_seconds()["cpu_seconds"] - busy["cpu_seconds"]
                values["cpu_ms_per_post"] = spent / found["answers"] * 1_000
            return values | {"load_busy": found["busy"]}

        sides = {
            OURS: lambda: post(our_side, topics.DOCUMENT_UPDATE.name),
            BARE: lambda: post(bare_side, bare_topic),
        }
        await take(case, sides, sizes, say)
    return row
