"""Both sides of the document sync in memory, and a run's host: they behave, and can die."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import blake3

from bitbylaw_common.circuits import Circuits
from bitbylaw_common.errors import Conflict, NotFound, Transient
from bitbylaw_common.events import EntityChanged, FieldConflict
from bitbylaw_common.journal import RunFacts
from bitbylaw_common.outcomes import Outcome, Retry, Skipped, Wait
from bitbylaw_common.registrations import Registration, Wanted
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.hosts.memory_host import ManualClock
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_common.sync.brake import Brake, Budget, Extent
from bitbylaw_common.sync.digests import Digester
from bitbylaw_document_sync.deps import Deps, KnowledgeDeps, Lists
from bitbylaw_document_sync.domain.comparison import Held, Listed, Shelf
from bitbylaw_document_sync.domain.knowledge import KnowledgePolicy
from bitbylaw_document_sync.domain.model import (
    Absent,
    Entry,
    FileFacts,
    Indexing,
    Member,
    Noted,
    Sharer,
    Uploaded,
    Word,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import About
from bitbylaw_document_sync.domain.planner import Policy
from bitbylaw_document_sync.steps.document_sync_event_step import document_sync

DIGESTER = Digester(b"0123456789abcdef0123456789abcdef")
SETTLE = timedelta(seconds=180)
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
CHUNK = 4

_WORDS = {
    Word.SYNCED: "synced",
    Word.INDEXING: "pending_sync",
    Word.UNWANTED: "unchanged",
    Word.UNSUPPORTED: "unsupported",
    Word.FAILED: "failed",
}


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Died(BaseException):
    """The process was killed here."""


@dataclass
class Moments:
    """Every moment at which a process may die: before and after each write, outside and base.

    Attributes:
        fatal: number of the moment to die at; None: never.
        names: what passed so far.
        trouble: called with the name of each moment; may raise.
    """

    fatal: int | None = None
    names: list[str] = field(default_factory=list)
    trouble: Callable[[str], None] | None = None

    def reach(self, name: str) -> None:
        self.names.append(name)
        if self.fatal is not None and len(self.names) > self.fatal:
            self.fatal = None
            raise Died(name)
        if self.trouble is not None:
            self.trouble(name)


@dataclass
class Row:
    """A document's record, as the CRM stores it."""

    attachment_id: str | None
    name: str
    md5: str | None
    status: str = "neu"
    xai_id: str | None = None
    collections: tuple[str, ...] = ()
    synced_hash: str | None = None
    message: str | None = None
    version: int = 1
    links: set[str] = field(default_factory=set)
    assigned_to: str | None = None


class Crm:
    """EspoCRM, as far as the ports show it."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.rows: dict[str, Row] = {}
        self.attachments: dict[str, tuple[str, str, bytes]] = {}
        self.paused: set[str] = set()
        self.knows_md5 = True
        self.says_indexing = False
        self.downloads = 0
        self.writes: list[tuple[str, WriteBack]] = []
        self.torn_downloads = 0
        self._serial = 0

    # what people do ----------------------------------------------------------------------------

    def add(
        self,
        document_id: str,
        content: bytes | None,
        *links: str,
        name: str = "Klage.pdf",
        mime: str = "application/pdf",
    ) -> str:
        attachment = None if content is None else self._attach(content, name, mime)
        md5 = md5_of(content) if content is not None and self.knows_md5 else None
        self.rows[document_id] = Row(attachment, name, md5, links=set(links))
        return document_id

    def replace_file(self, document_id: str, content: bytes, name: str = "Klage.pdf") -> None:
        row = self.rows[document_id]
        row.attachment_id = self._attach(content, name, "application/pdf")
        row.md5 = md5_of(content) if self.knows_md5 else None
        row.status = "geändert"
        row.version += 1

    def _attach(self, content: bytes, name: str, mime: str) -> str:
        self._serial += 1
        attachment_id = f"att-{self._serial}"
        self.attachments[attachment_id] = (name, mime, content)
        return attachment_id

    def content_of(self, document_id: str) -> bytes | None:
        row = self.rows.get(document_id)
        if row is None or row.attachment_id is None:
            return None
        return self.attachments[row.attachment_id][2]

    # the port ----------------------------------------------------------------------------------

    async def load(self, document_id: str) -> Entry | None:
        row = self.rows.get(document_id)
        if row is None:
            return None
        says = next((word for word, text in _WORDS.items() if text == row.status), None)
        return Entry(
            id=document_id,
            attachment_id=row.attachment_id,
            name=row.name,
            md5=row.md5,
            fresh=row.status in ("neu", "geändert"),
            says=says,
            words=frozenset({says} if says else ())
            | (set() if self.says_indexing else {Word.INDEXING}),
            status_said=row.status,
            xai_id=row.xai_id,
            collections=frozenset(row.collections),
            synced_hash=row.synced_hash,
            message=row.message,
            version=row.version,
            wanted=frozenset(row.links - self.paused),
            on_hold=frozenset(row.links & self.paused),
            assigned_to=row.assigned_to,
        )

    async def inspect(self, attachment_id: str, *, hashed: bool) -> FileFacts | Absent:
        if attachment_id not in self.attachments:
            return Absent(attachment_id)
        name, mime, content = self.attachments[attachment_id]
        if hashed:
            self.downloads += 1
        return FileFacts(
            attachment_id, name, mime, len(content), md5_of(content) if hashed else None
        )

    @asynccontextmanager
    async def content(self, attachment_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if attachment_id not in self.attachments:
            raise NotFound("espocrm", "download_attachment", status=404)
        self.downloads += 1
        yield self._chunks(self.attachments[attachment_id][2])

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        torn = self.torn_downloads > 0
        self.torn_downloads -= torn
        for at in range(0, len(content) // 2 if torn else len(content), CHUNK):
            yield content[at : at + CHUNK]
        if torn:
            raise Transient("espocrm", "download_attachment", status=200, detail="torn")

    async def sharers(self, file_ids: Iterable[str], *, besides: str) -> tuple[Sharer, ...]:
        wanted = set(file_ids)
        return tuple(
            Sharer(key, row.xai_id, frozenset(row.collections))
            for key, row in self.rows.items()
            if row.xai_id in wanted and key != besides and row.xai_id is not None
        )

    async def write_back(self, entry: Entry, back: WriteBack) -> None:
        self.moments.reach("before write_back")
        row = self.rows.get(entry.id)
        if row is None:
            raise NotFound("espocrm", "update_entity", status=404)
        if entry.version != row.version:
            raise Conflict("espocrm", "update_entity", reason="modified")
        for what, value in back.values:
            match what, value:
                case Noted.STATUS, Word():
                    row.status = _WORDS[value]
                case Noted.COLLECTIONS, tuple():
                    row.collections = value
                case Noted.FILE, str() | None:
                    row.xai_id = value
                case Noted.HASH, str() | None:
                    row.synced_hash = value
                case Noted.MESSAGE, str() | None:
                    row.message = value
                case _:
                    raise AssertionError(f"{what} cannot be {value!r}")
        row.version += 1
        self.writes.append((entry.id, back))
        self.moments.reach("after write_back")


@dataclass(frozen=True)
class Stored:
    name: str
    content: bytes
    created: datetime


class XaiWorld:
    """xAI's files and collections, as far as the ports show them."""

    def __init__(self, moments: Moments, now: Callable[[], datetime]) -> None:
        self.moments = moments
        self.now = now
        self.files: dict[str, Stored] = {}
        self.collections: dict[str, list[str]] = {}
        self.uploads: list[bytes] = []
        self.calls: list[str] = []
        self.visible_after = timedelta()
        self.refuse: BaseException | None = None
        self.on_change: Callable[[], None] | None = None
        self.indexing_looks = 0
        self.indexing_failures = 0
        self.looks: dict[tuple[str, str], int] = {}
        self.failed: set[tuple[str, str]] = set()
        self.reported_hash: str | None = None

    def add_collection(self, *names: str) -> None:
        for name in names:
            self.collections.setdefault(name, [])

    def contents(self, collection: str) -> list[bytes]:
        return [self.files[file].content for file in self.collections.get(collection, [])]

    def member(self, collection: str, file_id: str) -> Member:
        """Tell how far indexing is: done after `indexing_looks`, or failed as often as planned."""
        key = (collection, file_id)
        self.looks[key] = self.looks.get(key, 0) + 1
        if self.looks[key] <= self.indexing_looks:
            return Member(file_id, collection, Indexing.RUNNING)
        if key in self.failed:
            return Member(file_id, collection, Indexing.FAILED, error="no text found")
        reported = self.reported_hash or blake3.blake3(self.files[file_id].content).hexdigest()
        return Member(file_id, collection, Indexing.READY, reported)

    def _changed(self, call: str) -> None:
        self.calls.append(call)
        if self.on_change is not None:
            self.on_change()

    def begin_indexing(self, collection: str, file_id: str) -> None:
        self.looks.pop((collection, file_id), None)
        self.failed.discard((collection, file_id))
        if self.indexing_failures > 0:
            self.indexing_failures -= 1
            self.failed.add((collection, file_id))

    def put(self, name: str, content: bytes) -> str:
        file_id = f"file_{len(self.uploads)}_{len(self.files)}"
        self.files[file_id] = Stored(name, content, self.now())
        return file_id


class Files:
    def __init__(self, world: XaiWorld) -> None:
        self.world = world

    async def exists(self, file_id: str) -> bool:
        return file_id in self.world.files

    async def upload(
        self, content: AsyncIterable[bytes], *, name: str, mime: str, size: int
    ) -> str:
        world = self.world
        world.moments.reach("before upload")
        data = b"".join([chunk async for chunk in content])
        if world.refuse is not None:
            raise world.refuse
        assert len(data) == size
        assert mime
        file_id = world.put(name, data)
        world.uploads.append(data)
        world._changed("upload")
        world.moments.reach("after upload")
        return file_id

    async def uploaded_since(self, since: datetime) -> AsyncIterator[Uploaded]:
        newest = sorted(self.world.files.items(), key=lambda item: item[1].created, reverse=True)
        for file_id, stored in newest:
            visible = stored.created + self.world.visible_after <= self.world.now()
            if stored.created >= since and visible:
                yield Uploaded(file_id, stored.name, len(stored.content))

    async def md5(self, file_id: str) -> str:
        if file_id not in self.world.files:
            raise NotFound("xai", "file_content", status=404)
        return md5_of(self.world.files[file_id].content)

    async def delete(self, file_id: str) -> None:
        self.world.moments.reach("before delete")
        self.world.files.pop(file_id, None)
        for members in self.world.collections.values():
            if file_id in members:
                members.remove(file_id)
        self.world._changed(f"delete {file_id}")
        self.world.moments.reach("after delete")


class Collections:
    def __init__(self, world: XaiWorld) -> None:
        self.world = world

    async def exists(self, collection: str) -> bool:
        return collection in self.world.collections

    async def member(self, collection: str, file_id: str) -> Member | None:
        if file_id not in self.world.collections.get(collection, []):
            return None
        return self.world.member(collection, file_id)

    async def attach(self, collection: str, file_id: str) -> None:
        self.world.moments.reach("before attach")
        if collection not in self.world.collections or file_id not in self.world.files:
            raise NotFound("xai", "add_to_collection", status=404)
        if file_id not in self.world.collections[collection]:
            self.world.collections[collection].append(file_id)
            self.world.begin_indexing(collection, file_id)
        self.world._changed(f"attach {collection}")
        self.world.moments.reach("after attach")

    async def detach(self, collection: str, file_id: str) -> None:
        self.world.moments.reach("before detach")
        members = self.world.collections.get(collection, [])
        if file_id in members:
            members.remove(file_id)
        self.world._changed(f"detach {collection}")
        self.world.moments.reach("after detach")


class Messages:
    """What people are told: notifications and tasks, by record and subject."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.sent: list[tuple[str, str, str]] = []
        self.tasks: dict[tuple[str, str], str] = {}
        self.texts: list[str] = []
        self.refuse: BaseException | None = None

    async def message(self, about: About, user_id: str, subject: str, text: str) -> None:
        self.moments.reach("before message")
        if self.refuse is not None:
            raise self.refuse
        self.sent.append((user_id, about.id, subject))
        self.texts.append(text)
        self.moments.reach("after message")

    async def open_task(self, about: About, user_id: str, subject: str, text: str) -> None:
        self.moments.reach("before task")
        if self.refuse is not None:
            raise self.refuse
        if self.tasks.get((about.id, subject)) != "open":
            self.tasks[about.id, subject] = "open"
            self.texts.append(text)
        assert user_id
        self.moments.reach("after task")

    async def complete_task(self, about: About, subject: str) -> None:
        self.moments.reach("before completing")
        if (about.id, subject) in self.tasks:
            self.tasks[about.id, subject] = "completed"
        self.moments.reach("after completing")


class NoLists:
    """Both sides' whole lists, which one document's sync never reads."""

    async def shelves(self) -> tuple[Shelf, ...]:
        raise AssertionError("one document's sync reads no list")

    def on_shelf(self, shelf: Shelf) -> AsyncIterator[str]:
        raise AssertionError(f"one document's sync reads no list of {shelf}")

    def listed(self, since: datetime | None) -> AsyncIterator[Listed]:
        raise AssertionError(f"one document's sync reads no list since {since}")

    def some(self, document_ids: Iterable[str]) -> AsyncIterator[Listed]:
        raise AssertionError(f"one document's sync reads no list of {document_ids}")

    def members(self, collection: str) -> AsyncIterator[Held]:
        raise AssertionError(f"one document's sync reads no list of {collection}")

    def files(self) -> AsyncIterator[Held]:
        raise AssertionError("one document's sync reads no list")


class NoKnowledge:
    """A CRM and an xAI of which nobody asks for knowledge bases."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody asks for knowledge bases here, but for {name}")


def no_knowledge() -> KnowledgeDeps:
    """Return what knowledge bases need where there are none."""
    policy = KnowledgePolicy(DIGESTER.key_id, SETTLE)
    return KnowledgeDeps(NoKnowledge(), NoKnowledge(), policy)


class NoWebhooks:
    """A CRM that shows no webhook."""

    async def registrations(self) -> tuple[Registration, ...]:
        return ()


class Log:
    """A step's logger that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning = error = debug


class FakeRun:
    """A run's host: the base outlives it, the rest does not."""

    def __init__(self, bench: "Bench", document_id: str) -> None:
        self.facts = RunFacts()
        self._bench = bench
        self._key = document_id

    def now(self) -> datetime:
        return self._bench.now

    def still_owner(self) -> None:
        return None

    def saw(self, digest: str) -> Skipped | None:
        self.facts.seen = digest
        return None

    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]:
        self._bench.moments.reach("before publish")
        for emit in emits:
            assert isinstance(emit.event, FieldConflict)
            self._bench.conflicts.append(emit.event)
        self._bench.moments.reach("after publish")
        return [f"event-{number}" for number in range(len(emits))]

    def base(self) -> bytes | None:
        return self._bench.bases.get(self._key)

    def base_unreadable(self, reason: str) -> None:
        raise AssertionError(f"every base is written by us, so {reason} cannot be")

    async def overview(self, entity: str) -> Overview:
        raise AssertionError(f"one document's sync needs no overview of every {entity}")

    def extent(self) -> Extent:
        return Extent(known=len(self._bench.bases))

    async def write_base(self, value: bytes | None, *, intent: bool) -> None:
        kind = "intent" if intent else "base"
        self._bench.moments.reach(f"before {kind}")
        if value is None:
            self._bench.bases.pop(self._key, None)
        else:
            self._bench.bases[self._key] = value
        self._bench.base_writes += 1
        self._bench.moments.reach(f"after {kind}")


class Bench:
    """A whole small world: both sides, the bases, a clock, and processes that may die."""

    def __init__(
        self,
        *,
        delete_files: bool = False,
        budgets: dict[str, Budget] | None = None,
        notify: str | None = None,
    ) -> None:
        self.now = START
        self.moments = Moments()
        self.crm = Crm(self.moments)
        self.xai = XaiWorld(self.moments, lambda: self.now)
        self.messages = Messages(self.moments)
        self.bases: dict[str, bytes] = {}
        self.conflicts: list[FieldConflict] = []
        self.clock = ManualClock(START)
        self.budgets = {} if budgets is None else budgets
        self.base_writes = 0
        self.log = Log()
        self.policy = Policy(DIGESTER, SETTLE, delete_files=delete_files, notify=notify)
        self.deps = self._deps()
        self.facts = RunFacts()
        self._runs = 0

    def _deps(self) -> Deps:
        circuits = Circuits(ManualClock(START))
        return Deps(
            self.crm,
            Files(self.xai),
            Collections(self.xai),
            self.policy,
            circuits,
            Lists(NoLists(), NoLists()),
            brake=Brake("document-sync", self.budgets, self.clock),
            messages=self.messages,
            webhooks=NoWebhooks(),
            wanted_webhooks=Wanted(),
            knowledge=no_knowledge(),
        )

    def restart(self) -> None:
        """Begin a new process: what only memory knew is gone."""
        self.moments.fatal = None
        self.deps = self._deps()

    def advance(self, by: timedelta) -> None:
        self.now += by
        self.clock.move(by.total_seconds())

    async def run(self, document_id: str, action: str = "update", *, attempt: int = 1) -> Outcome:
        """Handle one event."""
        event = EntityChanged.model_validate(
            {"entity_type": "CDokumente", "entity_id": document_id, "action": action}
        )
        self._runs += 1
        run = FakeRun(self, document_id)
        self.facts = run.facts
        context = Context(
            self.deps,
            self.log,
            run,
            event_id=f"event-{self._runs}",
            run_id=f"run-{self._runs}",
            attempt=attempt,
        )
        return await document_sync(event, context)

    async def settle(self, document_id: str) -> Outcome:
        """Handle an event and whatever has to be waited for or repeated after it."""
        for _ in range(12):
            outcome = await self.run(document_id)
            match outcome:
                case Wait(after=after):
                    self.advance(max(after, timedelta(seconds=1)))
                case Retry(not_before=not_before):
                    self.advance(max(not_before or timedelta(), timedelta(minutes=1)))
                case _:
                    return outcome
        raise AssertionError(f"{document_id} does not come to rest: {outcome}")

    def world(self) -> dict[str, Any]:
        """Return everything that people could see, but for the names of files."""
        return {
            "collections": {name: sorted(self.xai.contents(name)) for name in self.xai.collections},
            "files": sorted(stored.content for stored in self.xai.files.values()),
            "rows": {
                key: (row.status, row.collections, row.synced_hash, row.message)
                for key, row in self.crm.rows.items()
            },
            "noted": {
                key: None if row.xai_id is None else self._content(row.xai_id)
                for key, row in self.crm.rows.items()
            },
        }

    def _content(self, file_id: str) -> bytes | None:
        stored = self.xai.files.get(file_id)
        return None if stored is None else stored.content

    def effects(self) -> tuple[int, int]:
        """Return how much was written to either side so far."""
        return len(self.xai.calls), len(self.crm.writes)
