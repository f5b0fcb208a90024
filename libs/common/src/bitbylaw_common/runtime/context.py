"""What a running step may reach."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import Event, FieldConflict
from bitbylaw_common.journal import RunFacts
from bitbylaw_common.outcomes import Skipped
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_common.sync.base import BaseState
from bitbylaw_common.sync.brake import Extent
from bitbylaw_common.topics import CONFLICTS, Topic

D = TypeVar("D")
E = TypeVar("E", bound=Event)
S = TypeVar("S", bound=BaseState)


@dataclass(frozen=True, slots=True)
class Emit(Generic[E]):
    """One event to publish on its topic. `headers` adds to the CloudEvents headers that the codec writes."""

    topic: Topic[E]
    event: E
    headers: Mapping[str, str] = field(default_factory=dict)


class StepLogger(Protocol):
    """A logger whose lines carry service, step, run and record by themselves.

    Facts go in fields: `logger.info("uploaded", file_id=file_id)`. Never a secret, never a
    client's data at info or above.
    """

    def debug(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def info(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def warning(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def error(self, event: str, **fields: Any) -> Any: ...  # noqa: D102


class RunPort(Protocol):
    """What a host does for one run; `Context` is its face to the handler."""

    facts: RunFacts

    def now(self) -> datetime: ...  # noqa: D102
    def still_owner(self) -> None: ...  # noqa: D102
    def saw(self, digest: str) -> Skipped | None: ...  # noqa: D102
    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]: ...  # noqa: D102
    def base(self) -> bytes | None: ...  # noqa: D102
    def base_unreadable(self, reason: str) -> None: ...  # noqa: D102
    async def write_base(self, value: bytes | None, *, intent: bool) -> None: ...  # noqa: D102
    def extent(self) -> Extent: ...  # noqa: D102
    async def overview(self, entity: str) -> Overview: ...  # noqa: D102


class Context(Generic[D]):
    """What a running step may reach: its dependencies, its log, its record's base, the journal.

    Attributes:
        deps: what the app's `open_deps` opened.
        logger: bound to this run.
        event_id: the `ce_id` of the event that started the run (the last, if coalesced).
        run_id: fresh for every run; names it in journal and logs.
        attempt: 1 for a first try, counting only failures.
        requested: an operator asked for this very run; a replay of many does not count.
    """

    def __init__(
        self,
        deps: D,
        logger: StepLogger,
        run: RunPort,
        *,
        event_id: str,
        run_id: str,
        attempt: int = 1,
        requested: bool = False,
    ) -> None:
        self.deps = deps
        self.logger = logger
        self.event_id = event_id
        self.run_id = run_id
        self.attempt = attempt
        self.requested = requested
        self._run = run

    def now(self) -> datetime:
        """Return the host's clock, UTC."""
        return self._run.now()

    def still_owner(self) -> None:
        """Return if this worker still owns the record.

        Raises:
            OwnershipLost: another worker owns it now; let it propagate, nothing may be written.
        """
        self._run.still_owner()

    def extent(self) -> Extent:
        """Return how much of the service's records this worker answers for."""
        return self._run.extent()

    def saw(self, digest: str) -> Skipped | None:
        """Tell what the run sees, as a digest of the snapshot.

        Returns:
            `Skipped` when the last attempt failed on exactly this sight and its retry is still
            to come: return it. None: go on.
        """
        return self._run.saw(digest)

    def decided(self, rule: str, reason: str) -> None:
        """Note the decision for the journal: the rule's short name and the reason in words."""
        self._run.facts.decided(rule, reason)

    async def enqueue(self, topic: Topic[E], event: E) -> str:
        """Publish `event` and return its id once Kafka has acknowledged it.

        Raises:
            UndeclaredTopicError: the step does not declare the topic in `enqueues`.
            OwnershipLost: as `still_owner`.
            LogUnavailableError: Kafka did not acknowledge in time.
        """
        (event_id,) = await self._run.publish([Emit(topic, event)])
        return event_id

    async def enqueue_all(self, emits: Sequence[Emit[Any]]) -> list[str]:
        """Publish all at once; return their ids, in order, once Kafka acknowledged every one.

        Raises:
            UndeclaredTopicError, OwnershipLost, LogUnavailableError: as `enqueue`; after the last,
                some may have been stored.
        """
        return await self._run.publish(emits)

    def base(self, model: type[S]) -> S | None:
        """Return what both sides agreed on last; None when never, or when it is unreadable.

        An unreadable one is counted, logged and journalled; the run goes on as a first sync.
        """
        value = self._run.base()
        if value is None:
            return None
        try:
            return model.from_bytes(value)
        except DecodeError as unreadable:
            self._run.base_unreadable(str(unreadable))
            return None

    async def intend(self, value: BaseState) -> None:
        """Write the base with what this run is about to do, before its first effect.

        Returns once acknowledged. A journal line goes with it, so that a run killed in the
        middle of its effects is visible.

        Raises:
            OwnershipLost, LogUnavailableError: as `enqueue`; no effect may follow.
        """
        await self._run.write_base(value.to_bytes(), intent=True)

    async def agree(self, value: BaseState | None) -> None:
        """Write the base as it is after the effects; None forgets the record.

        Raises:
            OwnershipLost, LogUnavailableError: as `enqueue`.
        """
        await self._run.write_base(None if value is None else value.to_bytes(), intent=False)

    async def overview(self, entity: str) -> Overview:
        """Return what the whole service keeps about one kind of record, whoever owns it.

        Args:
            entity: the firm's word for the kind, such as "document".

        Raises:
            LogUnavailableError: the log could not be read to its end.
        """
        return await self._run.overview(entity)

    async def conflicted(self, conflicts: Sequence[FieldConflict]) -> None:
        """Tell both values of fields before one of them is overwritten.

        Returns once acknowledged; the run's journal refers to them. May be repeated: the same
        conflict keeps its id. The step declares `sync.conflicts` among what it publishes to.

        Raises:
            OwnershipLost, LogUnavailableError: as `enqueue`; nothing may be overwritten.
        """
        await self._run.publish([Emit(CONFLICTS, conflict) for conflict in conflicts])
        self._run.facts.conflicts += [conflict.conflict_id for conflict in conflicts]

    @asynccontextmanager
    async def effect(
        self, system: str, method: str, *, target: str = "", fields: Mapping[str, str] | None = None
    ) -> AsyncIterator[None]:
        """Surround one write to the outside: checked before, recorded after.

        Args:
            system: who is written to: "xai".
            method: what is done: "add_to_collection".
            target: ids only, such as "collection_1/file_2".
            fields: names of the fields written, each with the digest of its new value, or the
                value itself where it is harmless.

        Raises:
            OwnershipLost: before anything was done.
        """
        self._run.still_owner()
        with self._run.facts.effect(system, method, target=target, fields=fields or {}):
            yield
