"""Proxy: calls at an even rate through the Advoware proxy, beside aiohttp alone."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import BenchError, Rig, Side, module, program
from benchmarks.rows.ingest import load
from benchmarks.sizes import Sizes
from benchmarks.things import topic as thing_topic
from benchmarks.turns import Say, take
from bitbylaw_common import topics

BARE = "bare aiohttp pass-through"
PLAIN = "the same without its trail on Kafka"
KEY = "a key that only benchmarks use"
CALL = "/advoware/proxy?endpoint=Beteiligte&limit=40&name=M%C3%BC"
METRICS = (
    Metric("p50_ms", "p50 ms"),
    Metric("p99_ms", "p99 ms"),
    Metric("cpu_ms_per_call", "CPU ms per call", 3),
    Metric("load_busy", "share of a core that the load took"),
)


@asynccontextmanager
async def proxy(rig: Rig, upstream: str, *, at_once: int) -> AsyncIterator[Side]:
    """Run the real proxy before `upstream`."""
    await rig.make(tuple(topics.catalogue()))
    caller = {"name": "bench", "keys": [KEY], "scopes": [{"endpoints": ["Beteiligte/**"]}]}
    env = rig.env() | {
        "ADVOWARE_CONFIGURATOR_URL": "off",
        "ADVOWARE_API_BASE_URL": upstream,
        "ADVOWARE_SECURITY_GATEWAY_URL": f"{upstream}/security",
        "ADVOWARE_APP_ID": "bench",
        "ADVOWARE_API_KEY": "YmVuY2g=",
        "ADVOWARE_KANZLEI": "bench",
        "ADVOWARE_DATABASE": "bench",
        "ADVOWARE_USER": "SB",
        "ADVOWARE_PASSWORD": "bench-password",
        "ADVOWARE_CONCURRENCY": str(at_once),
        "ADVOWARE_PROXY_CALLERS": json.dumps([caller]),
    }
    async with rig.process("advoware-proxy", [program("bitbylaw-advoware-proxy")], env) as side:
        await side.ready()
        yield side


@asynccontextmanager
async def bare(rig: Rig, upstream: str, *options: str) -> AsyncIterator[tuple[Side, str]]:
    """Run the reference; with it comes the topic of its trail."""
    topic = rig.name("calls")
    await rig.make([thing_topic(topic)])
    words = (rig.kafka, topic, upstream, KEY, *options)
    async with rig.process(BARE, module("benchmarks.bare_proxy", *words)) as side:
        await side.url()
        yield side, topic


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "proxy",
        f"Advoware proxy: GET of 4 KB, {sizes.proxy_rate} calls/s",
        f"Calls leave at even distances for {sizes.proxy_seconds:g} s, after "
        f"{sizes.warm_seconds:g} s that do not count, over {sizes.connections} connections. Both "
        "check a key, pass query and headers on, wrap the answer, and note the call on a topic "
        "without waiting for it; the same upstream answers both at once. Broker, load, upstream and "
        "proxy share the machine.",
    )
    bars = (Bar("p50_ms", 1.3), Bar("p99_ms", 1.3))
    case = Case("proxy", METRICS, "p99_ms", bars, BARE)
    row.cases.append(case)
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        upstream = await (await enter(rig.process("upstream", module("benchmarks.upstream")))).url()
        our_side = await enter(proxy(rig, upstream, at_once=sizes.connections))
        bare_side, bare_topic = await enter(bare(rig, upstream))
        plain_side, _ = await enter(bare(rig, upstream, "--plain"))

        async def call(side: Side, trail: str) -> Values:
            noted, busy = sum((await rig.ends(trail)).values()) if trail else 0, side.cpu_seconds()
            words = (
                *("--connections", sizes.connections, "--rate", sizes.proxy_rate),
                *("--seconds", sizes.proxy_seconds, "--warm-seconds", sizes.warm_seconds),
                *("--get", CALL, "--key", KEY),
            )
            found = await load(rig, await side.url(), words, limit_seconds=sizes.limit_seconds)
            values = {key: found[key] for key in ("p50_ms", "p99_ms")}
            if trail:
                await _all_noted(rig, side, trail, noted + found["answers"])
            if busy:
                spent = side.cpu_seconds()["cpu_seconds"] - busy["cpu_seconds"]
                values["cpu_ms_per_call"] = spent / found["answers"] * 1_000
            return values | {"load_busy": found["busy"]}

        sides = {
            OURS: lambda: call(our_side, topics.PROXY_RESPONSE.name),
            BARE: lambda: call(bare_side, bare_topic),
            PLAIN: lambda: call(plain_side, ""),
        }
        await take(case, sides, sizes, say)
    return row


async def _all_noted(rig: Rig, side: Side, trail: str, wanted: int) -> None:
    """Return once every call is on the topic.

    Raises:
        BenchError: some are missing after a while.
    """
    found = 0
    for _ in range(50):  # it is asked over Kafka, which takes its time
        found = sum((await rig.ends(trail)).values())
        if found == wanted:
            return
    raise BenchError(f"{side.name}: {wanted} calls, {found} on its trail")
