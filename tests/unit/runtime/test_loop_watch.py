"""The watch on the event loop: a blocked loop is seen from outside, while it is blocked."""

import asyncio
import threading
import time

from bitbylaw_common import metrics
from bitbylaw_common.runtime.loop_watch import LoopWatch, watching

Blockage = tuple[float, str, str]

NAMED_SECONDS = 1.0
"""Far above a beat: a busy machine may hold up a loop that nothing blocks for a while."""


def block(until: threading.Event) -> None:
    until.wait(10)


async def test_what_blocks_the_loop_is_named_while_it_lasts_and_once() -> None:
    seen: list[Blockage] = []
    reported = threading.Event()

    def report(seconds: float, task: str, line: str) -> None:
        seen.append((seconds, task, line))
        reported.set()

    before = metrics.value("bitbylaw_loop_blocked_total")
    watch = LoopWatch(report, named_seconds=NAMED_SECONDS)
    beating = asyncio.create_task(watch.beat())
    looking = threading.Thread(target=watch.look)
    looking.start()

    async def hold_up() -> None:
        block(reported)  # ends only when the watch reported it from its own thread

    await asyncio.create_task(hold_up(), name="toy Toy Sync")
    await asyncio.sleep(0.6)
    watch.end()
    beating.cancel()
    looking.join(5)

    ((seconds, task, line),) = seen
    assert seconds >= NAMED_SECONDS
    assert task == "toy Toy Sync"
    assert line.startswith("block (test_loop_watch.py:")
    assert metrics.value("bitbylaw_loop_blocked_total") == before + 1


async def test_a_loop_that_goes_round_is_not_reported_and_its_lag_is_measured() -> None:
    counted = metrics.value("bitbylaw_loop_lag_seconds_count")
    blocked = metrics.value("bitbylaw_loop_blocked_total")
    began = time.monotonic()
    async with watching("toy"), asyncio.timeout(10):
        while metrics.value("bitbylaw_loop_lag_seconds_count") < counted + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert time.monotonic() - began < 10
    assert metrics.value("bitbylaw_loop_blocked_total") == blocked
