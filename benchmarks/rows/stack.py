"""The stack: `bbl up` until everything is ready, beside Kafka's own bare start."""

import asyncio
import time

from benchmarks.results import OURS, Bar, Case, Metric, Row, Values
from benchmarks.rig import LOOK_SECONDS, READY_SECONDS, Rig, program
from benchmarks.sizes import Sizes
from benchmarks.turns import Say, take
from bitbylaw_devstack import KafkaBroker, default_cache_dir, install_kafka

BARE = "Kafka alone"
METRICS = (Metric("seconds", "s until ready"),)


async def measure(rig: Rig, sizes: Sizes, say: Say) -> Row:
    """Measure the row."""
    row = Row(
        "stack",
        "The whole system up",
        "From the start of the command `bbl up` until it says that it is ready (Kafka, Redis, "
        "topics, services, simulators), beside the same Kafka: an empty folder formatted, then "
        "started until it answers. Everything is downloaded.",
    )
    case = Case("stack", METRICS, "seconds", (Bar("seconds", 4.0),), BARE)
    row.cases.append(case)
    kafka = await install_kafka(default_cache_dir(), lambda _: None)

    async def alone() -> Values:
        folder, log = rig.path("kafka"), rig.path("log")
        folder.mkdir()
        broker = KafkaBroker(kafka, folder=folder, log=log)
        began = time.monotonic()
        try:
            await broker.start()
            return {"seconds": time.monotonic() - began}
        finally:
            await broker.stop()

    async def up() -> Values:
        folder = rig.path("up")
        folder.mkdir()
        began = time.monotonic()
        command = [program("bbl"), "up", "--port", "0"]
        async with rig.process("bbl up", command, folder=folder) as side:
            while "Ready after" not in side.log.read_text("utf-8"):
                side.must_run()
                if time.monotonic() - began > READY_SECONDS:
                    raise side.late("get ready", READY_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)
            return {"seconds": time.monotonic() - began}

    await take(case, {OURS: up, BARE: alone}, sizes, say)
    return row
