"""Who works on which record: the locks in Redis, listed, and freed where their holder is gone."""

from collections.abc import Awaitable
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.locks import TTL_SECONDS, HeldLock


class Book(Protocol):
    """What the commands ask of Redis' locks; see `LockBook`."""

    def all(self) -> Awaitable[list[HeldLock]]: ...  # noqa: D102
    def get(self, entity: str, entity_id: str) -> Awaitable[HeldLock | None]: ...  # noqa: D102
    def free(self, lock: HeldLock) -> Awaitable[bool]: ...  # noqa: D102


class RecordLock(BaseModel):
    """A lock on one record.

    Attributes:
        service, process: who holds it; empty when it is none of our services.
        taken: since when; None when it is none of our services.
        seconds_left: until it frees itself; None when it never does.
        renewed: its holder renewed it when it last should have.
    """

    model_config = ConfigDict(frozen=True)

    entity: str
    entity_id: str
    service: str
    process: str
    taken: datetime | None
    seconds_left: float | None
    renewed: bool


class LockList(BaseModel):
    """Every lock that is held."""

    model_config = ConfigDict(frozen=True)

    locks: tuple[RecordLock, ...]


class Release(BaseModel):
    """A lock freed, or to be freed.

    Attributes:
        written: it is free now; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    lock: RecordLock
    written: bool


async def held_locks(book: Book) -> LockList:
    """Return every lock that is held, by record.

    Raises:
        Transient: Redis does not answer.
    """
    return LockList(locks=tuple([_shown(lock) for lock in await book.all()]))


async def release(book: Book, entity: str, entity_id: str, *, write: bool, force: bool) -> Release:
    """Free a record's lock whose holder is gone; with `force`, whoever holds it.

    Args:
        write: False only says what would be freed.

    Raises:
        CommandError: nobody holds it, its holder still renews it, or it changed hands meanwhile.
        Transient: Redis does not answer.
    """
    lock = await book.get(entity, entity_id)
    if lock is None:
        raise CommandError(
            Exit.USAGE,
            f"nobody holds a lock on {entity} {entity_id}; `bbl locks` lists what is held",
        )
    ago = lock.renewed_seconds_ago
    if lock.renewed and ago is not None and not force:
        raise CommandError(
            Exit.REFUSED,
            f"{lock.service} ({lock.process}) renewed its lock on {entity} {entity_id} {ago:.0f} s "
            f"ago, so it is at work; if it is dead, the lock frees itself within "
            f"{TTL_SECONDS:.0f} s. --force frees it all the same",
        )
    if write and not await book.free(lock):
        raise CommandError(
            Exit.REFUSED,
            f"the lock on {entity} {entity_id} changed hands meanwhile and was left alone; "
            "look again with `bbl locks`",
        )
    return Release(lock=_shown(lock), written=write)


def _shown(lock: HeldLock) -> RecordLock:
    return RecordLock(
        entity=lock.entity,
        entity_id=lock.entity_id,
        service=lock.service,
        process=lock.process,
        taken=lock.taken,
        seconds_left=lock.seconds_left,
        renewed=lock.renewed,
    )
