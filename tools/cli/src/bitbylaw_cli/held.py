"""The quarantine: webhooks that could not be read, looked at, released and dropped."""

import base64
from collections.abc import AsyncIterable, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, home_of, places
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import EntityChanged, Quarantined, QuarantineResolved
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import Emit
from bitbylaw_common.runtime.ports import Log, Outgoing, Record
from bitbylaw_common.topics import Topic
from bitbylaw_ingest.released import emits_of_entry, emits_of_ids, reread

How = Literal["reread", "ids", "dropped"]

_ENTRIES: Topic[Any] = topics.QUARANTINE
"""The topic holds entries and what was decided about them."""


class Held(BaseModel):
    """One quarantine entry, without what it holds.

    Attributes:
        quarantine_id: names it; the same bytes posted again have the same.
        first, last: when it was received for the first and the last time, UTC.
        times: how often it was received.
        item: its place in the posted array; None for a whole body.
        raw_bytes: how long it is.
        open: nobody decided about it since it was received last.
        resolved, how, events, by: the last decision; None and empty while there is none.
        place: where the last one lies: `topic:partition:offset`.
    """

    model_config = ConfigDict(frozen=True)

    quarantine_id: str
    first: datetime | None
    last: datetime | None
    times: int
    route: str
    webhook_id: str
    reason: str
    item: int | None
    raw_bytes: int
    open: bool
    resolved: datetime | None = None
    how: How | None = None
    events: int = 0
    by: str = ""
    place: str


class HeldList(BaseModel):
    """The entries of the quarantine, the oldest first.

    Attributes:
        open: how many wait for a decision; all of them, whatever `entries` was cut to.
        unreadable: records that this version cannot read.
    """

    model_config = ConfigDict(frozen=True)

    open: int
    resolved: int
    entries: tuple[Held, ...]
    unreadable: int = 0


class Publishes(BaseModel):
    """One event that a release publishes."""

    model_config = ConfigDict(frozen=True)

    topic: str
    entity_type: str
    entity_id: str
    action: str


class Release(BaseModel):
    """What releasing or dropping an entry does, or did.

    Attributes:
        still: faults of what cannot be read even now.
        resolves: the entry is closed by it; not so while something in it stays unreadable.
        written: it is done; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    quarantine_id: str
    how: How
    publishes: tuple[Publishes, ...] = ()
    still: tuple[str, ...] = ()
    resolves: bool
    written: bool


async def held(log: Reads, *, everything: bool = False) -> HeldList:
    """Return the open entries; with `everything` the decided ones as well.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    entries, unreadable = await folded(log.read(places([_ENTRIES.name])))
    opened = [entry for entry in entries if entry.open]
    return HeldList(
        open=len(opened),
        resolved=len(entries) - len(opened),
        entries=tuple(entries if everything else opened),
        unreadable=unreadable,
    )


async def entry(log: Reads, quarantine_id: str) -> tuple[Held, Quarantined]:
    """Return one entry, open or decided, with what it holds.

    Raises:
        CommandError: there is no such entry.
        LogUnavailableError: Kafka cannot be read.
    """
    last: Quarantined | None = None
    mine: list[Record] = []
    key = quarantine_id.encode()
    async for record in log.read(places([_ENTRIES.name], [home_of(quarantine_id)])):
        if record.key != key or record.value is None:
            continue
        if record.headers.get("ce_type") != QuarantineResolved.type:
            try:
                last = Quarantined.model_validate_json(record.value)
            except ValidationError:
                continue
        mine.append(record)
    found, _ = await folded(_each(mine))
    if last is None or not found:
        raise CommandError(
            Exit.USAGE,
            f"{_ENTRIES.name} holds no entry {quarantine_id!r}; `bbl quarantine list --all` shows "
            "what is there",
        )
    return found[0], last


def raw_of(content: Quarantined) -> bytes:
    """Return the exact bytes of an entry.

    Raises:
        CommandError: they are not what the entry's encoding promises.
    """
    try:
        return base64.b64decode(content.raw, validate=True)
    except ValueError:
        raise CommandError(
            Exit.REFUSED, f"the bytes of entry {content.quarantine_id} are not base64"
        ) from None


async def release(
    log: Log, clock: Clock, quarantine_id: str, *, ids: Sequence[str] = (), write: bool
) -> Release:
    """Publish what an open entry says, then close it; harmless when repeated after a failure.

    Where parts cannot be read even now, the readable ones are published and the entry stays open.

    Args:
        ids: the records that an operator found the entry to be about, instead of reading it.
        write: False only says what would be done.

    Raises:
        CommandError: there is no such entry, it is decided already, nothing in it can be read, or
            an id cannot be one of EspoCRM.
        LogUnavailableError: Kafka did not acknowledge; some events may be published, and the
            entry is closed or not.
    """
    content = await _open_entry(log, quarantine_id)
    how: How = "ids" if ids else "reread"
    still: tuple[str, ...] = ()
    try:
        if ids:
            emits = emits_of_ids(content, ids)
        else:
            reading = reread(content)
            still = tuple(part.fault.value for part in reading.unreadable)
            emits = emits_of_entry(content, reading)
    except (KeyError, ValueError) as unfit:
        raise CommandError(Exit.REFUSED, f"{unfit.args[0]}; nothing was released") from None
    if still and not emits:
        raise CommandError(
            Exit.REFUSED,
            f"entry {quarantine_id} still cannot be read ({still[0]}): name its records with "
            "--ids, or `bbl quarantine drop` it",
        )
    if write:
        records = [_encoded(emit, clock) for emit in emits]
        if records:
            await log.append(records)
        if not still:
            await _resolve(log, clock, quarantine_id, how, len(emits))
    return Release(
        quarantine_id=quarantine_id,
        how=how,
        publishes=tuple(_published(emit) for emit in emits),
        still=still,
        resolves=not still,
        written=write,
    )


async def drop(log: Log, clock: Clock, quarantine_id: str, *, write: bool) -> Release:
    """Close an open entry without publishing anything; its bytes stay until they expire.

    Raises:
        CommandError: there is no such entry, or it is decided already.
        LogUnavailableError: Kafka did not acknowledge; it is closed or not.
    """
    await _open_entry(log, quarantine_id)
    if write:
        await _resolve(log, clock, quarantine_id, "dropped", 0)
    return Release(quarantine_id=quarantine_id, how="dropped", resolves=True, written=write)


async def folded(records: AsyncIterable[Record]) -> tuple[list[Held], int]:
    """Return each entry as the last record about it left it, and how many are unreadable.

    Records of one id lie in one partition, so their order is the order of their offsets.
    """
    entries: dict[str, Held] = {}
    unreadable = 0
    async for record in records:
        if record.value is None:
            continue
        try:
            _fold(entries, record)
        except ValidationError:
            unreadable += 1
    found = sorted(entries.values(), key=lambda one: (str(one.first), one.quarantine_id))
    return found, unreadable


def _fold(entries: dict[str, Held], record: Record) -> None:
    value = record.value or b""
    if record.headers.get("ce_type") == QuarantineResolved.type:
        decision = QuarantineResolved.model_validate_json(value)
        before = entries.get(decision.quarantine_id)
        if before is not None:
            entries[decision.quarantine_id] = before.model_copy(
                update={
                    "open": False,
                    "resolved": record.time,
                    "how": decision.how,
                    "events": decision.events,
                    "by": decision.by,
                }
            )
        return
    got = Quarantined.model_validate_json(value)
    before = entries.get(got.quarantine_id)
    entries[got.quarantine_id] = Held(
        quarantine_id=got.quarantine_id,
        first=record.time if before is None else before.first,
        last=record.time,
        times=1 if before is None else before.times + 1,
        route=got.route,
        webhook_id=got.webhook_id,
        reason=got.reason,
        item=got.item,
        raw_bytes=len(got.raw) * 3 // 4 - got.raw[-2:].count("="),
        open=True,
        resolved=None if before is None else before.resolved,
        how=None if before is None else before.how,
        events=0 if before is None else before.events,
        by="" if before is None else before.by,
        place=f"{record.topic}:{record.partition}:{record.offset}",
    )


async def _each(records: Sequence[Record]) -> AsyncIterable[Record]:
    for record in records:
        yield record


async def _open_entry(log: Reads, quarantine_id: str) -> Quarantined:
    found, content = await entry(log, quarantine_id)
    if not found.open:
        decided = "dropped" if found.how == "dropped" else f"released ({found.events} events)"
        raise CommandError(
            Exit.REFUSED,
            f"entry {quarantine_id} was {decided} already; the same bytes posted again open it anew",
        )
    return content


async def _resolve(log: Log, clock: Clock, quarantine_id: str, how: How, events: int) -> None:
    decision = QuarantineResolved(quarantine_id=quarantine_id, how=how, events=events)
    await log.append([_encoded(Emit(_ENTRIES, decision), clock)])


def _encoded(emit: Emit[Any], clock: Clock) -> Outgoing:
    return codec.encode(
        emit.topic,
        emit.event,
        event_id=new_event_id(),
        source="bbl",
        now=clock.now(),
        traceparent=tracing.new().header,
        headers=emit.headers,
    )


def _published(emit: Emit[Any]) -> Publishes:
    event = emit.event
    if not isinstance(event, EntityChanged):
        raise TypeError(f"a webhook's event is a changed entity, not {type(event).__name__}")
    return Publishes(
        topic=emit.topic.name,
        entity_type=event.entity_type,
        entity_id=event.entity_id,
        action=event.action,
    )
