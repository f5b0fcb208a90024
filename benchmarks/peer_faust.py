"""Faust as it comes: an agent with as many actors as the others have runs at once."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import faust  # type: ignore[import-not-found,unused-ignore]

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
    app = faust.App(
        given.group,
        broker=f"kafka://{given.kafka}",
        datadir=str(given.ledger.parent / given.group),
        topic_disable_leader=True,
        web_enabled=False,
    )
    topic = app.topic(given.topic, key_serializer="raw", value_serializer="json")

    @app.agent(topic, concurrency=given.concurrency)  # type: ignore[untyped-decorator,unused-ignore]
    async def handle(events: Any) -> None:
        async for event in events:
            began = time.time_ns()
            await asyncio.sleep(event["sleep_ms"] / 1000)
            if ledger.note(Handled(event["thing"], event["number"], began, time.time_ns())):
                await asyncio.to_thread(ledger.write)

    faust.Worker(app, loglevel="WARNING", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
