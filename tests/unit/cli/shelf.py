"""A log in memory that the commands open instead of Kafka, and the commands over it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import dlq, quarantine, tail, topics, waiting, why
from bitbylaw_common.events import Event
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryLog
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.ports import Outgoing, Record
from bitbylaw_common.runtime.schedule import Carried, ScheduleEntry
from bitbylaw_common.topics import Topic

SERVICE = "document-sync"
STEP = "Document Sync"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Shelf:
    """Records that a test put there, and those that a command wrote."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.log = MemoryLog(self.clock)

    def put(
        self, topic: Topic[Any], event: Event, headers: Mapping[str, str] | None = None
    ) -> None:
        """Store an event as a service would."""
        self.append(
            codec.encode(
                topic,
                event,
                event_id=new_event_id(),
                source="test",
                now=self.clock.now(),
                headers=headers,
            )
        )

    def append(self, record: Outgoing) -> None:
        """Store any record; a second passes."""
        asyncio.run(_append(self.log, record))
        self.clock.move(1)

    def schedule(self, entity_id: str, entry: ScheduleEntry | None) -> None:
        """Store a document's schedule entry, or its tombstone."""
        key = LaneKey(STEP, "document", entity_id).to_bytes()
        value = None if entry is None else entry.to_bytes()
        number = codec.partition_of(entity_id.encode())
        self.append(Outgoing(f"{SERVICE}.schedule", key, value, {}, number))

    def bury(self, letter: DeadLetter) -> None:
        """Store a document's dead letter."""
        key = LaneKey(letter.step, letter.entity, letter.entity_id).to_bytes()
        number = codec.partition_of(letter.entity_id.encode())
        self.append(Outgoing(f"{SERVICE}.dlq", key, letter.to_bytes(), {}, number))

    def records(self, topic: str) -> list[Record]:
        """Return everything on a topic."""
        return self.log.records(topic)


class Bbl:
    """The command line over a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.cli = typer.Typer(no_args_is_help=True)
        for noun in (topics, tail, dlq, waiting, quarantine, why):
            noun.register(self.cli)

    def __call__(self, *words: str) -> Result:
        """Type `bbl words...`."""
        return CliRunner().invoke(self.cli, words)


def open_instead(monkeypatch: pytest.MonkeyPatch, log: MemoryLog) -> None:
    """Let every command open this log."""

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield log

    for noun in (tail, dlq, waiting, quarantine, why):
        monkeypatch.setattr(noun, "open_log", open_log)


async def _append(log: MemoryLog, record: Outgoing) -> None:
    await log.append([record])


def entry(entity_id: str, *, due: timedelta = timedelta(minutes=5), **given: Any) -> ScheduleEntry:
    """Return a schedule entry of a document."""
    fields: dict[str, Any] = {
        "step": STEP,
        "entity": "document",
        "entity_id": entity_id,
        "due": NOW + due,
        "kind": "retry",
        "attempt": 2,
        "since": NOW,
        "reason": "xai answered 503 to upload_file",
        "error": "Transient",
    }
    return ScheduleEntry(**fields | given)


def letter(entity_id: str, **given: Any) -> DeadLetter:
    """Return a dead letter of a document."""
    fields: dict[str, Any] = {
        "service": SERVICE,
        "step": STEP,
        "entity": "document",
        "entity_id": entity_id,
        "origin": "vmh.document.update:3:7",
        "reason": "xai answered 400 to upload_file",
        "error": "Invalid",
        "attempts": 1,
        "first_seen": NOW,
        "died": NOW,
        "event_id": f"event-{entity_id}",
        "run_id": f"run-{entity_id}",
        "carried": Carried(
            topic="vmh.document.update",
            value=json.dumps(
                {"entity_type": "CDokumente", "entity_id": entity_id, "action": "update"}
            ),
        ),
    }
    return DeadLetter(**fields | given)
