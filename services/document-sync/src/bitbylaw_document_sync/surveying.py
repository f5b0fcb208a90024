"""Reads both sides in bulk and has every record judged: the eyes of coverage and comparison.

The order makes the lists fit together: first what we know, then where documents belong and lie,
then the records. So a record whose base is known and that no list has was deleted, and not made a
moment ago. Each `yield` ends a part; whoever reads on may do so in a later run.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import datetime, timedelta

from bitbylaw_common.errors import DecodeError, NotFound
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_document_sync.deps import Deps, Reading
from bitbylaw_document_sync.domain.comparison import (
    Finding,
    Held,
    Lacking,
    Listed,
    Shelf,
    Standing,
    Survey,
    judged,
    suspects,
)
from bitbylaw_document_sync.domain.coverage import Known
from bitbylaw_document_sync.domain.model import DocumentBase, FileFacts

DOCUMENT = "document"
"""The firm's word for what is synced here, as in topics and keys."""

PARTS_AT_ONCE = 1_000
PARTS_SECONDS = timedelta(seconds=20)
"""One run reads so many parts, or for so long; then it gives its place to others and goes on."""

_ROWS = 20
"""A part is so many rows of a list, or one list that is shorter: judging them takes milliseconds, and
nothing else of this process moves meanwhile."""

_BASES = 500
"""So many bases are parsed at a time, for the same reason."""


async def read_on(reading: Reading, now: Callable[[], datetime]) -> bool:
    """Read as much as one run may; say whether the survey is complete.

    Raises:
        OutsideError: a list could not be read; nothing may be concluded from the rest, and the
            survey cannot go on.
    """
    began = now()
    for _ in range(PARTS_AT_ONCE):
        try:
            await anext(reading.parts)
        except StopAsyncIteration:
            return True
        await asyncio.sleep(0)
        if now() - began >= PARTS_SECONDS:
            break
    return False


async def surveyed(
    ctx: Context[Deps],
    name: str,
    run_id: str,
    begin: Callable[[Survey], AsyncGenerator[None, None]],
) -> Reading | None:
    """Return the complete survey for a run, or None: come again at once and read on.

    Args:
        name: of the cron; one survey of each is under way at a time.
        run_id: the same as long as it is the same tick; another one begins anew.
        begin: reads into the survey it is given.

    Raises:
        OutsideError: as `read_on`; the next attempt begins anew.
    """
    readings = ctx.deps.lists.readings
    reading = readings.pop(name, None)
    if reading is not None and reading.run_id != run_id:
        await reading.parts.aclose()
        reading = None
    if reading is None:
        overview = await ctx.overview(DOCUMENT)
        survey = await begun(overview, ctx.deps, ctx.now())
        reading = Reading(run_id, survey, known(overview, survey), begin(survey))
    if await read_on(reading, ctx.now):
        return reading
    readings[name] = reading
    return None


async def begun(overview: Overview, deps: Deps, now: datetime) -> Survey:
    """Return a survey that knows what was agreed on, and nothing of the sides yet.

    A base that cannot be read counts as none, as it does in a run.
    """
    bases: dict[str, DocumentBase] = {}
    for number, (document, value) in enumerate(overview.bases.items()):
        if number % _BASES == 0:
            await asyncio.sleep(0)
        try:
            bases[document] = DocumentBase.from_bytes(value)
        except DecodeError:
            continue
    return Survey(now, bases, facts=dict(deps.lists.facts))


def known(overview: Overview, survey: Survey) -> Mapping[str, Known]:
    """Return what waits for its time, and what was given up and not agreed on since."""
    about: dict[str, Known] = {}
    for document in overview.waiting.keys() | overview.letters.keys():
        letter, base = overview.letters.get(document), survey.bases.get(document)
        open_since = letter.died if letter is not None else None
        if open_since is not None and base is not None and base.written_at > open_since:
            open_since = None
        about[document] = Known(document in overview.waiting, open_since)
    return about


async def changes(
    survey: Survey, deps: Deps, *, since: datetime | None, watched: Iterable[str]
) -> AsyncGenerator[None, None]:
    """Judge what the CRM says was changed, what the lists of links show to be off, and `watched`.

    Args:
        since: by the CRM's clock; None lists every document.
        watched: records to judge in any case.
    """
    async for _ in _places(survey, deps):
        yield
    asked = set(suspects(survey)) | set(watched)
    seen: set[str] = set()
    async for listed in deps.lists.registers.listed(since):
        _noted(survey, listed)
        if listed.entry.id not in seen:
            seen.add(listed.entry.id)
            await _judge(survey, deps, listed.entry.id, listed)
        if len(seen) % _ROWS == 0:
            yield
    yield
    async for listed in deps.lists.registers.some(asked - seen):
        if listed.entry.id in seen:
            continue
        seen.add(listed.entry.id)
        await _judge(survey, deps, listed.entry.id, listed)
        if len(seen) % _ROWS == 0:
            yield
    for gone in sorted(asked - seen):
        if gone in survey.bases:
            await _judge(survey, deps, gone, None)
            yield


async def everything(survey: Survey, deps: Deps) -> AsyncGenerator[None, None]:
    """Judge every record there is or was, and list every file at xAI."""
    for phase in (_places, _files, _records):
        async for _ in phase(survey, deps):
            yield


async def _files(survey: Survey, deps: Deps) -> AsyncGenerator[None, None]:
    files: dict[str, Held] = {}
    async for held in deps.lists.holdings.files():
        files[held.file_id] = held
        if len(files) % _ROWS == 0:
            yield
    survey.files = files


async def _records(survey: Survey, deps: Deps) -> AsyncGenerator[None, None]:
    """Judge all records that the CRM lists, then those that we know and it does not.

    Who shares a file, and so whether it may leave a collection, only the whole list tells: what is
    not in line without that is judged once more at the end.
    """
    seen: set[str] = set()
    in_line: list[str] = []
    later: list[Listed] = []
    async for listed in deps.lists.registers.listed(None):
        _noted(survey, listed)
        if listed.entry.id in seen:
            continue
        seen.add(listed.entry.id)
        survey.note(listed.entry)
        finding = await _judged(survey, deps, listed.entry.id, listed, ask_sharers=False)
        if finding is not None and finding.standing is Standing.IN_SYNC:
            in_line.append(finding.document_id)
            survey.add(finding)
        elif finding is not None:
            later.append(listed)
        if len(seen) % _ROWS == 0:
            yield
    survey.all_noted = True
    survey.shared(in_line)
    gone: list[tuple[str, Listed | None]] = [(d, None) for d in sorted(survey.bases.keys() - seen)]
    for number, (document, record) in enumerate([*((one.entry.id, one) for one in later), *gone]):
        await _judge(survey, deps, document, record)
        if number % _ROWS == 0:
            yield


async def _places(survey: Survey, deps: Deps) -> AsyncGenerator[None, None]:
    """Read where documents belong and what lies there, one shelf after another."""
    shelves = await deps.lists.registers.shelves()
    yield
    for shelf in shelves:
        if shelf.state != "off":
            await _links(survey, deps, shelf)
            yield
    ours = {place for base in survey.bases.values() for place in base.collections}
    for collection in sorted({shelf.collection for shelf in shelves} | ours):
        await _members(survey, deps, collection)
        yield


async def _links(survey: Survey, deps: Deps, shelf: Shelf) -> None:
    if not shelf.link:
        survey.blind[shelf.collection] = (
            f"the CRM's metadata does not say which list of {shelf.entity} holds its documents"
        )
        return
    try:
        survey.put(shelf, [document async for document in deps.lists.registers.on_shelf(shelf)])
    except NotFound:
        survey.blind[shelf.collection] = f"{shelf.entity} {shelf.id} went away while it was read"


async def _members(survey: Survey, deps: Deps, collection: str) -> None:
    members = {}
    try:
        async for held in deps.lists.holdings.members(collection):
            members[held.file_id] = held
    except NotFound:
        survey.members[collection] = None
    else:
        survey.members[collection] = members


def _noted(survey: Survey, listed: Listed) -> None:
    moment = listed.modified_at
    if moment is not None and (survey.newest is None or moment > survey.newest):
        survey.newest = moment


async def _judge(survey: Survey, deps: Deps, document_id: str, listed: Listed | None) -> None:
    finding = await _judged(survey, deps, document_id, listed, ask_sharers=True)
    if finding is not None:
        survey.add(finding)


async def _judged(
    survey: Survey,
    deps: Deps,
    document_id: str,
    listed: Listed | None,
    *,
    ask_sharers: bool,
) -> Finding | None:
    """Judge a record, reading what is lacking for it.

    Args:
        ask_sharers: ask the CRM who else notes a file; else the record counts as pending.
    """
    alone = survey
    while True:
        answer = judged(alone, document_id, listed, deps.policy)
        if not isinstance(answer, Lacking):
            return answer
        if answer.files:
            if not ask_sharers:
                return Finding(document_id, Standing.PENDING, "", "who shares it is not known yet")
            others = await deps.documents.sharers(answer.files, besides=document_id)
            alone = survey.knowing(others)
        elif answer.attachment:
            facts = await deps.documents.inspect(answer.attachment, hashed=False)
            survey.facts[answer.attachment] = facts
            if isinstance(facts, FileFacts):
                deps.lists.remember(facts)
        for collection in sorted(answer.collections):
            await _members(survey, deps, collection)
