"""Looks at both sides of a document, answers the planner's questions, carries out its plans."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import blake3

from bitbylaw_common.errors import BitByLawError, Conflict, NotFound, OutsideError
from bitbylaw_common.events import FieldConflict
from bitbylaw_common.runtime.context import Context
from bitbylaw_document_sync.book import Book
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.model import (
    Action,
    AskCollections,
    AskFile,
    AskSharers,
    AskUploads,
    Attach,
    DeleteFile,
    Detach,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Indexing,
    Member,
    Noted,
    Plan,
    Question,
    Sight,
    Upload,
    WriteBack,
)
from bitbylaw_document_sync.domain.notices import About, CloseTask, Notify
from bitbylaw_document_sync.domain.planner import has_content, plan, resembles
from bitbylaw_document_sync.notifying import close_task, notify

SERVICE = "document-sync"
ENTITY = "CDokumente"
CLOCK_SKEW = timedelta(minutes=5)
"""How far xAI's clock may be behind ours when we look for a file by its time."""

_QUESTIONS_AT_MOST = 8


@dataclass(frozen=True, slots=True)
class Stale:
    """The world is not what the plan was made from: look and plan again.

    Attributes:
        reason: in words for an operator.
        facts: what reading the bytes taught, where that was it.
        failure: an upload that failed without telling whether it happened.
    """

    reason: str
    facts: FileFacts | None = None
    failure: OutsideError | None = None


class BytesDifferError(BitByLawError):
    """An attachment's bytes are not the ones that were announced; they were not uploaded."""


# -- looking --------------------------------------------------------------------------------------


async def look(document_id: str, ctx: Context[Deps], book: Book[DocumentBase]) -> Sight:
    """Return what both sides say now: the record, its files at xAI, and where they are attached."""
    deps, base = ctx.deps, book.base
    entry = await deps.documents.load(document_id)
    files: set[str] = set()
    places: set[str] = set()
    members: list[Member] = []
    if base is not None:
        files.update(retired.file_id for retired in base.retired)
        files.update([base.file_id] if base.file_id is not None else [])
        places.update(base.collections)
    if entry is not None:
        files.update([entry.xai_id] if entry.xai_id is not None else [])
        places.update(entry.wanted, entry.on_hold, entry.collections)
    existing = frozenset([file for file in sorted(files) if await deps.files.exists(file)])
    for file in sorted(files):
        for place in sorted(places):
            member = await deps.collections.member(place, file)
            members += [member] if member is not None else []
    found = Found(existing).with_members(members)
    return Sight(document_id, entry, base, found, ctx.now(), ctx.run_id, asked=ctx.requested)


async def looked_on(
    sight: Sight, done: Plan, ctx: Context[Deps], book: Book[DocumentBase]
) -> Sight:
    """Return the sight after a part of the work: what is attached now, and how far xAI is."""
    members: list[Member] = []
    for action in done.actions:
        if isinstance(action, Attach):
            member = await ctx.deps.collections.member(action.collection, action.file_id)
            # One that does not show yet was attached all the same, and is indexed at the soonest.
            running = Member(action.file_id, action.collection, Indexing.RUNNING)
            members.append(running if member is None else member)
    files = sight.found.files | {member.file_id for member in members}
    found = replace(sight.found, files=files).with_members(members)
    return replace(sight, base=book.base, found=found, sharers=None)


async def decided(sight: Sight, ctx: Context[Deps]) -> tuple[Plan, Sight]:
    """Return the plan, and the sight with all that had to be found out for it."""
    for _ in range(_QUESTIONS_AT_MOST):
        answer = plan(sight, ctx.deps.policy)
        if isinstance(answer, Plan):
            return answer, sight
        sight = await _answered(answer, sight, ctx)
    raise AssertionError(f"the planner asks without end: {answer}")


async def _answered(question: Question, sight: Sight, ctx: Context[Deps]) -> Sight:
    deps = ctx.deps
    match question:
        case AskFile(attachment_id, hashed):
            return replace(sight, file=await deps.documents.inspect(attachment_id, hashed=hashed))
        case AskSharers(file_ids):
            others = await deps.documents.sharers(file_ids, besides=sight.document_id)
            return replace(sight, sharers=others)
        case AskCollections(collections):
            existing = [place for place in collections if await deps.collections.exists(place)]
            return replace(sight, existing=frozenset(existing))
        case AskUploads():
            return replace(sight, uploads=await _uploads(question, sight.document_id, ctx))


async def _uploads(ask: AskUploads, document_id: str, ctx: Context[Deps]) -> tuple[str, ...]:
    """Return the file that the upload became, if one is found that nobody else has."""
    deps, intent = ctx.deps, ask.intent
    digester = deps.policy.digester
    async for uploaded in deps.files.uploaded_since(intent.since - CLOCK_SKEW):
        file_id = uploaded.file_id
        if file_id in ask.besides or deps.claims.taken_from(document_id, file_id):
            continue
        if not resembles(uploaded, intent, digester):
            continue
        try:
            same = has_content(await deps.files.md5(file_id), intent, digester)
        except NotFound:
            continue
        if same and not await deps.documents.sharers((file_id,), besides=document_id):
            deps.claims.take(file_id, document_id)
            ctx.logger.info("found the file of an upload without an answer", file_id=file_id)
            return (file_id,)
    return ()


# -- acting ---------------------------------------------------------------------------------------


async def execute(
    to_do: Plan, sight: Sight, ctx: Context[Deps], book: Book[DocumentBase]
) -> Stale | str | None:
    """Carry out the plan's actions one by one, the base written before and after.

    What the plan overwrites of somebody else is told before the first action.

    Returns:
        None when all is done; the new file's id when it uploaded, so that the rest is planned;
        `Stale` when the world moved. What was done stays done and is found again.

    Raises:
        OutsideError: an action failed; repeating the run is safe.
    """
    if to_do.actions and to_do.before is not None:
        await book.intend(to_do.before)
    if to_do.clashes:
        await ctx.conflicted(_conflicts(to_do, sight, ctx))
    for action in to_do.actions:
        if isinstance(action, Upload):
            return await _upload(action, sight.document_id, ctx, book)
        stale = await _carry_out(action, sight, ctx, book)
        if stale is not None:
            return stale
    await book.agree(to_do.after)
    return None


async def _carry_out(
    action: Action, sight: Sight, ctx: Context[Deps], book: Book[DocumentBase]
) -> Stale | None:
    match action:
        case Attach(file_id, collection):
            return await _attach(file_id, collection, ctx)
        case Detach(file_id, collection):
            target = f"{collection}/{file_id}"
            async with ctx.effect("xai", "remove_from_collection", target=target):
                await ctx.deps.collections.detach(collection, file_id)
        case WriteBack():
            return await _write_back(action, sight.entry, ctx)
        case DeleteFile(file_id):
            async with ctx.effect("xai", "delete_file", target=file_id):
                await ctx.deps.files.delete(file_id)
        case Notify() | CloseTask():
            await _tell(action, sight, ctx, book)
        case Upload():
            raise AssertionError("an upload makes a new plan, so it is not one step of this one")
    return None


async def _tell(
    action: Notify | CloseTask, sight: Sight, ctx: Context[Deps], book: Book[DocumentBase]
) -> None:
    name = "" if sight.entry is None else sight.entry.name
    about = About(ENTITY, sight.document_id, name)
    if isinstance(action, Notify):
        await notify(action, about, ctx, book.untell)
    else:
        await close_task(action, about, ctx)


def _conflicts(to_do: Plan, sight: Sight, ctx: Context[Deps]) -> list[FieldConflict]:
    digester = ctx.deps.policy.digester
    return [
        FieldConflict(
            conflict_id=digester.of(sight.document_id, clash.what, clash.theirs, clash.ours),
            service=SERVICE,
            entity_type=ENTITY,
            entity_id=sight.document_id,
            field=clash.what,
            ours=clash.ours,
            theirs=clash.theirs,
            rule="what the sync notes about xAI is its own: ours is written",
            run_id=ctx.run_id,
        )
        for clash in to_do.clashes
    ]


async def _attach(file_id: str, collection: str, ctx: Context[Deps]) -> Stale | None:
    try:
        async with ctx.effect("xai", "add_to_collection", target=f"{collection}/{file_id}"):
            await ctx.deps.collections.attach(collection, file_id)
    except NotFound:
        return Stale("file or collection went away before it was attached")
    return None


async def _write_back(action: WriteBack, entry: Entry | None, ctx: Context[Deps]) -> Stale | None:
    if entry is None:
        raise AssertionError("a write-back was planned for a record that is gone")
    try:
        async with ctx.effect(
            "espocrm", "update_entity", target=entry.id, fields=_shown(action, ctx)
        ):
            await ctx.deps.documents.write_back(entry, action)
    except Conflict as conflict:
        if conflict.reason != "modified":
            raise
        return Stale("the record changed before it was written back")
    except NotFound:
        return Stale("the record went away before it was written back")
    return None


def _shown(action: WriteBack, ctx: Context[Deps]) -> Mapping[str, str]:
    """Return the fields as the journal may show them: ids and our own words, hashes as digests."""
    shown: dict[str, str] = {}
    for what, value in action.values:
        match value:
            case None:
                shown[what] = ""
            case tuple():
                shown[what] = ",".join(value)
            case str() if what in (Noted.HASH, Noted.MESSAGE):
                shown[what] = ctx.deps.policy.digester.of(value)
            case str():
                shown[what] = str(value)
    return shown


async def _upload(
    action: Upload, document_id: str, ctx: Context[Deps], book: Book[DocumentBase]
) -> Stale | str:
    deps, pending = ctx.deps, book.base
    if pending is None or pending.pending is None:
        raise AssertionError("an upload without its intent in the base could make a twin")
    checked: Checked | None = None
    try:
        async with deps.documents.content(action.attachment_id) as chunks:
            checked = Checked(chunks, md5=action.md5, size=action.size)
            fields = {"content": action.intent.content, "bytes": str(action.size)}
            async with ctx.effect("xai", "upload_file", target=document_id, fields=fields):
                file_id = await deps.files.upload(
                    checked, name=action.name, mime=action.mime, size=action.size
                )
    except (BytesDifferError, OutsideError) as error:
        whole = checked is not None and checked.released
        if whole and isinstance(error, OutsideError) and error.ambiguous:
            return Stale("an upload without an answer", failure=error)
        # Nothing can be stored: the last piece never left, or xAI said no.
        await book.agree(pending.model_copy(update={"pending": None}))
        if checked is not None and checked.differs:
            ctx.logger.warning(
                "the bytes are not the ones that the record names",
                attachment_id=action.attachment_id,
                bytes=checked.size,
            )
            facts = FileFacts(
                action.attachment_id, action.name, action.mime, checked.size, checked.md5
            )
            return Stale("the bytes are not the ones that the record names", facts=facts)
        if isinstance(error, NotFound) and checked is None:
            return Stale("the attachment went away before it was read")
        raise
    deps.claims.take(file_id, document_id)
    ctx.logger.info("uploaded", file_id=file_id, bytes=checked.size, sha256=checked.sha256)
    # The id is ours only once it is written: from here on a crash uploads nothing again.
    hashes = tuple(deps.policy.digester.of(one) for one in (checked.blake3, checked.sha256))
    await book.intend(pending.with_file(file_id, action.intent, hashes))
    return file_id


class Checked:
    """Bytes on their way, hashed as they pass; the last piece leaves only if all are right.

    So what a torn download or a wrong record would make of a file never becomes one.

    Attributes:
        md5, sha256, size: of what passed.
        differs: all bytes came, and they are not the announced ones.
        released: the last piece was handed on.
    """

    def __init__(self, chunks: AsyncIterable[bytes], *, md5: str, size: int) -> None:
        self._chunks = chunks
        self._announced = (md5, size)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3.blake3()
        self.size = 0
        self.differs = False
        self.released = False

    @property
    def md5(self) -> str:
        """Hex digest, lower case."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """Hex digest, lower case."""
        return self._sha256.hexdigest()

    @property
    def blake3(self) -> str:
        """Hex digest, lower case: what xAI reports of a file, as far as is known."""
        return self._blake3.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces, each one later than it came.

        Raises:
            BytesDifferError: instead of the last piece.
        """
        held = b""
        async for chunk in self._chunks:
            if held:
                yield held
            held = chunk
            self._md5.update(chunk)
            self._sha256.update(chunk)
            self._blake3.update(chunk)
            self.size += len(chunk)
        if (self.md5, self.size) != self._announced:
            self.differs = True
            raise BytesDifferError("the attachment's bytes are not the announced ones")
        self.released = True
        yield held
