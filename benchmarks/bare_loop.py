"""The reference of latency: one aiokafka consumer in a loop, validation and a commit now and then.

With a journal it also notes each record on a topic, and commits what is noted: the least that a
program does of which it can be told afterwards what became of a record.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel, ConfigDict

from benchmarks.ledger import Handled, Ledger

COMMIT_SECONDS = 0.5


class Changed(BaseModel):
    """What a record says."""

    model_config = ConfigDict(extra="allow")
    entity_type: str
    entity_id: str
    action: str


async def consume(given: argparse.Namespace) -> None:
    """Handle records one after the other until the process is ended."""
    ledger = Ledger(given.ledger, given.records)
    consumer = AIOKafkaConsumer(
        given.topic,
        bootstrap_servers=given.kafka,
        group_id=given.group,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        isolation_level="read_committed",
    )
    await consumer.start()
    if given.journal:
        producer = AIOKafkaProducer(
            bootstrap_servers=given.kafka, acks="all", enable_idempotence=True
        )
        await producer.start()
    for place in consumer.assignment():
        await consumer.position(place)
    given.ready.touch()
    committed = time.monotonic()
    while True:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                began = time.time_ns()
                event = Changed.model_validate_json(record.value)
                run = Handled(event.entity_id, int(event.entity_id, 16), began, time.time_ns())
                if given.journal:
                    note = {"id": event.entity_id, "offset": record.offset, "ended": run.ended}
                    await producer.send(given.journal, json.dumps(note).encode(), record.key)
                if ledger.note(run):
                    ledger.write()
        if time.monotonic() - committed >= COMMIT_SECONDS:
            if given.journal:
                await producer.flush()
            await consumer.commit()
            committed = time.monotonic()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("kafka", "topic", "group"):
        parser.add_argument(word)
    parser.add_argument("records", type=int)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("ready", type=Path)
    parser.add_argument("--journal", help="a topic")
    asyncio.run(consume(parser.parse_args()))
