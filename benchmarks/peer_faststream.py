"""FastStream as it comes: a subscriber with as many workers as the others have runs at once."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from faststream import FastStream  # type: ignore[import-not-found,unused-ignore]
from faststream.kafka import KafkaBroker  # type: ignore[import-not-found,unused-ignore]

from benchmarks.ledger import Handled, Ledger


def main() -> None:
    """Handle things until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("kafka", "topic", "group"):
        parser.add_argument(word)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("records", type=int)
    parser.add_argument("ledger", type=Path)
    given = parser.parse_args()
    ledger = Ledger(given.ledger, given.records)
    broker = KafkaBroker(given.kafka, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator,unused-ignore]
        given.topic,
        group_id=given.group,
        auto_offset_reset="earliest",
        max_workers=given.concurrency,
    )
    async def handle(event: dict[str, Any]) -> None:
        began = time.time_ns()
        await asyncio.sleep(event["sleep_ms"] / 1000)
        if ledger.note(Handled(event["thing"], event["number"], began, time.time_ns())):
            await asyncio.to_thread(ledger.write)

    asyncio.run(FastStream(broker, logger=None).run())


if __name__ == "__main__":
    main()
