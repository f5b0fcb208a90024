"""The catalogue: every topic of the system, and nothing about topics anywhere else."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar

from bitbylaw_common.events import (
    Command,
    EntityChanged,
    Event,
    FieldConflict,
    ProxyAnswered,
    Quarantined,
    RunRequested,
)

E = TypeVar("E", bound=Event)

PARTITIONS = 12
"""Fixed: partition p of every topic belongs together, so this number never changes."""

MIB = 1024 * 1024
LARGE_RECORD_BYTES = 24 * MIB
"""Quarantine and dead letters: whatever the edge accepts (16 MiB, base64) can be stored."""


@dataclass(frozen=True, slots=True)
class Topic(Generic[E]):
    """One topic.

    Attributes:
        name: as Kafka knows it.
        event: the model of its values; `Event` itself where the runtime keeps its own records.
        owner: the service that answers for it.
        retention: how long records live; None for compacted topics and for ever.
        cleanup: Kafka's `cleanup.policy`.
        personal: may hold personal data; then it needs its own access rights and is never
            printed without being asked for.
        max_message_bytes: the largest record batch that broker, producer and fetch agree on.
        segment: how soon the broker closes what it writes to; only closed segments are compacted.
            None leaves it to the broker.
    """

    name: str
    event: type[E]
    owner: str
    description: str
    retention: timedelta | None = timedelta(days=30)
    cleanup: Literal["delete", "compact", "compact,delete"] = "delete"
    personal: bool = False
    partitions: int = PARTITIONS
    max_message_bytes: int = MIB
    segment: timedelta | None = None

    def config(self) -> dict[str, str]:
        """Return the topic's Kafka configuration, as strings.

        All topics use LogAppendTime: a record carrying an old stamp of its own was measured to be
        deleted by the broker within seconds.
        """
        retention_ms = -1 if self.retention is None else _milliseconds(self.retention)
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(retention_ms),
        }
        if self.segment is not None:
            config["segment.ms"] = str(_milliseconds(self.segment))
        return config


def _milliseconds(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)


def _vmh(entity: str, action: str, owner: str) -> Topic[EntityChanged]:
    return Topic(
        f"vmh.{entity}.{action}",
        EntityChanged,
        owner,
        f"EspoCRM says: look at this {entity} ({action})",
    )


BETEILIGTE_CREATE = _vmh("beteiligte", "create", "ingest")
BETEILIGTE_UPDATE = _vmh("beteiligte", "update", "ingest")
BETEILIGTE_DELETE = _vmh("beteiligte", "delete", "ingest")
BETEILIGTE_SYNC_CHECK = _vmh("beteiligte", "sync_check", "beteiligte-sync")
BANKVERBINDUNGEN_CREATE = _vmh("bankverbindungen", "create", "ingest")
BANKVERBINDUNGEN_UPDATE = _vmh("bankverbindungen", "update", "ingest")
BANKVERBINDUNGEN_DELETE = _vmh("bankverbindungen", "delete", "ingest")
BANKVERBINDUNGEN_SYNC_CHECK = _vmh("bankverbindungen", "sync_check", "beteiligte-sync")
DOCUMENT_CREATE = _vmh("document", "create", "ingest")
DOCUMENT_UPDATE = _vmh("document", "update", "ingest")
DOCUMENT_DELETE = _vmh("document", "delete", "ingest")
DOCUMENT_SYNC_CHECK = _vmh("document", "sync_check", "document-sync")
AIKNOWLEDGE_SYNC_CHECK = _vmh("aiknowledge", "sync_check", "document-sync")

DOCUMENT = (DOCUMENT_CREATE, DOCUMENT_UPDATE, DOCUMENT_DELETE, DOCUMENT_SYNC_CHECK)
"""Everything that says "look at this document"."""

QUARANTINE = Topic(
    "ingest.quarantine",
    Quarantined,
    "ingest",
    "Authentic webhook bodies and items that could not be read, with their raw bytes",
    retention=timedelta(days=180),
    personal=True,
    max_message_bytes=LARGE_RECORD_BYTES,
)
PROXY_RESPONSE = Topic(
    "advoware.proxy.response",
    ProxyAnswered,
    "advoware-proxy",
    "Which program asked Advoware for what, and how that was answered, without any content",
    retention=timedelta(days=90),
)
JOURNAL = Topic(
    "sync.journal",
    Event,
    "journal",
    "What every run saw, decided by which rule, did and left to do",
    retention=timedelta(days=400),
)
CONFLICTS = Topic(
    "sync.conflicts",
    FieldConflict,
    "journal",
    "Both values of every field that two sides changed, before one is overwritten",
    retention=timedelta(days=90),
    personal=True,
)
COMMANDS = Topic(
    "control.commands",
    Command,
    "runtime",
    "Desired state: paused, halted, braked",
    retention=None,
    cleanup="compact",
)
FUNCTIONS = Topic(
    "control.functions",
    Event,
    "runtime",
    "The steps each service declares, for the whole fleet",
    retention=None,
    cleanup="compact",
)
WORKERS = Topic(
    "control.workers",
    Event,
    "runtime",
    "How each worker stands right now: its partitions, runs, rates, what is held and why",
    retention=timedelta(days=7),  # a killed process leaves no tombstone
    cleanup="compact,delete",
    segment=timedelta(minutes=10),  # a status every few seconds: only the last of each counts
)


def requests(service: str) -> Topic[RunRequested]:
    """Return the topic on which `service` takes manual runs and triggers."""
    return Topic(
        f"{service}.requests",
        RunRequested,
        service,
        f"Runs of {service} that somebody asked for",
    )


def schedule(service: str) -> Topic[Event]:
    """Return the compacted topic of what is due later in `service`, one entry per key."""
    return Topic(
        f"{service}.schedule",
        Event,
        service,
        f"What is due later in {service}: retries, waits, cron ticks",
        retention=None,
        cleanup="compact",
    )


def base(service: str) -> Topic[Event]:
    """Return the compacted topic of what both sides agreed on last, one entry per key."""
    return Topic(
        f"{service}.base",
        Event,
        service,
        f"What {service} and its two sides agreed on last",
        retention=None,
        cleanup="compact",
    )


def dlq(service: str) -> Topic[Event]:
    """Return the dead letters of `service`; undecodable ones carry raw bytes, hence personal."""
    return Topic(
        f"{service}.dlq",
        Event,
        service,
        f"Records that {service} gave up on, with origin and reason",
        retention=timedelta(days=180),
        personal=True,
        max_message_bytes=LARGE_RECORD_BYTES,
    )


CONSUMERS: tuple[str, ...] = ("document-sync",)
"""The services that consume; each has requests, schedule, base and dead letters."""

_SHARED: tuple[Topic[Any], ...] = (
    BETEILIGTE_CREATE,
    BETEILIGTE_UPDATE,
    BETEILIGTE_DELETE,
    BETEILIGTE_SYNC_CHECK,
    BANKVERBINDUNGEN_CREATE,
    BANKVERBINDUNGEN_UPDATE,
    BANKVERBINDUNGEN_DELETE,
    BANKVERBINDUNGEN_SYNC_CHECK,
    *DOCUMENT,
    AIKNOWLEDGE_SYNC_CHECK,
    QUARANTINE,
    PROXY_RESPONSE,
    JOURNAL,
    CONFLICTS,
    COMMANDS,
    FUNCTIONS,
    WORKERS,
)


def of_service(service: str) -> tuple[Topic[Any], ...]:
    """Return the four topics that the runtime keeps for a consuming service."""
    return (requests(service), schedule(service), base(service), dlq(service))


RECORD_OVERHEAD_BYTES = 4_096
"""What key, headers and the batch around a record may add to its value."""


def catalogue() -> Iterator[Topic[Any]]:
    """Yield every topic of the system, each once."""
    yield from _SHARED
    for service in CONSUMERS:
        yield from of_service(service)


def by_name(name: str) -> Topic[Any]:
    """Return the topic called `name`.

    Raises:
        KeyError: there is none; the text names the nearest.
    """
    known = {topic.name: topic for topic in catalogue()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise KeyError(f"no topic {name!r}; the nearest is {near!r} (see: bbl topics plan)")


_LARGEST: dict[str, int] = {topic.name: topic.max_message_bytes for topic in catalogue()}


def longest_value(name: str) -> int:
    """Return how many bytes a record's value may have on the topic `name`.

    Of a topic outside of the catalogue nothing is known but what the runtime keeps there.
    """
    small = name.endswith((".base", ".schedule"))
    return _LARGEST.get(name, MIB if small else LARGE_RECORD_BYTES) - RECORD_OVERHEAD_BYTES
