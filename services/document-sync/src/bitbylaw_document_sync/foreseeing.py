"""What a run would do about a document now: both sides are read, and nothing is written anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bitbylaw_common.journal import RunFacts
from bitbylaw_common.logs import step_logger
from bitbylaw_common.outcomes import Rejected, Skipped, Wait
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_common.sync.brake import Extent
from bitbylaw_document_sync.book import Book
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.model import (
    Action,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Upload,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import CloseTask, Notify
from bitbylaw_document_sync.executor import SERVICE, decided, look


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a run would do now.

    Attributes:
        rule, reason: as the journal would say.
        actions: in words, ids and names of fields only.
        more: the actions show something new, and the rest is planned then.
        overwrites: fields in which a person's value would be replaced.
        ends: what the run would wait for, or why it would be rejected; empty where it would be done.
    """

    rule: str
    reason: str
    actions: tuple[str, ...]
    more: bool
    overwrites: tuple[str, ...]
    ends: str


async def foresee(document_id: str, deps: Deps, base: bytes | None, now: datetime) -> Foreseen:
    """Return what a run would do, as far as can be told before its first effect.

    Args:
        base: the record's, as it lies in the service's topic.
        now: the time, UTC.

    Raises:
        OutsideError: a side cannot be read.
    """
    run = _Looking(base, now)
    logger = step_logger(service=SERVICE, entity_id=document_id)
    ctx = Context(deps, logger, run, event_id="", run_id="")
    book = Book(ctx, DocumentBase)
    to_do, _ = await decided(await look(document_id, ctx, book), ctx)
    ending = to_do.ending
    return Foreseen(
        to_do.rule,
        to_do.reason,
        tuple(in_words(action) for action in to_do.actions),
        to_do.more,
        tuple(str(clash.what) for clash in to_do.clashes),
        ending.reason if isinstance(ending, Wait | Rejected) else "",
    )


def in_words(action: Action) -> str:
    """Return an action in words, with ids and names of fields and no value of a record."""
    match action:
        case Upload(size=size):
            return f"upload the file ({size} bytes)"
        case Attach(file_id, collection):
            return f"put {file_id} into {collection}"
        case Detach(file_id, collection):
            return f"take {file_id} out of {collection}"
        case DeleteFile(file_id):
            return f"delete {file_id}"
        case WriteBack(values):
            return f"write {', '.join(what for what, _ in values)} into the record"
        case Notify(trouble):
            return f"tell its user: {trouble.kind}"
        case CloseTask(kind):
            return f"complete the task: {kind}"


class _Looking:
    """A run that may look and not write."""

    def __init__(self, base: bytes | None, now: datetime) -> None:
        self.facts = RunFacts()
        self._base = base
        self._now = now

    def now(self) -> datetime:
        return self._now

    def still_owner(self) -> None:
        raise AssertionError("looking changes nothing")

    def saw(self, digest: str) -> Skipped | None:
        self.facts.seen = digest
        return None

    def extent(self) -> Extent:
        return Extent(share=0.0)

    async def overview(self, entity: str) -> Overview:
        raise AssertionError(f"looking at one record needs no overview of every {entity}")

    def base(self) -> bytes | None:
        return self._base

    def base_unreadable(self, reason: str) -> None:
        self.facts.decided("", reason)

    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]:
        raise AssertionError(f"looking publishes nothing, {len(emits)} given")

    async def write_base(self, value: bytes | None, *, intent: bool) -> None:
        raise AssertionError("looking writes no base")
