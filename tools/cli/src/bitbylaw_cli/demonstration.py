"""What `bbl demo` shows: the main job on the sample world, or on a folder of real files."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bitbylaw_cli.local import LocalSystem
from bitbylaw_cli.main_job import announced_documents, post_webhook, settled
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.services import forget_highest, highest_kib, resident_kib
from bitbylaw_cli.simulated import Office, Simulated
from bitbylaw_cli.story import Story, writes
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.journal import JournalEntry
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.filetypes import Unfit

SCENE_SECONDS = 60.0
"""How long one change may take until both sides agree again."""

_SECONDS_PER_MIB = 1.0
"""What a file may take beyond that, by its size."""
_KNOWN = "documents.json"
_UNSUPPORTED = ("unsupported", "failed")


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing that a person did, and what came of it.

    Attributes:
        what: what was done, in words.
        document: the document's name, or how many.
        rules: the rules that decided, as the journal has them.
        outcome: of the last run.
        writes: what was done outside, by method.
        ms: from the change to the end of the last run.
        problem: what is not as it should be; empty when all is.
    """

    what: str
    document: str
    rules: tuple[str, ...]
    outcome: str
    writes: Mapping[str, int]
    ms: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FileLine:
    """One real file and what became of it.

    Attributes:
        sha256_equal: whether xAI holds exactly these bytes; None where nothing was to be uploaded.
        status: the word in EspoCRM; `reason` says in German why it is not uploaded.
        problem: what is not as it should be; empty when all is.
    """

    file: str
    bytes: int
    rules: tuple[str, ...]
    outcome: str
    sha256_equal: bool | None
    status: str
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a service, in MiB: idle, at its highest, and the difference."""

    service: str
    idle: float
    highest: float
    growth: float


@dataclass(frozen=True, slots=True)
class Demo:
    """How the demonstration went.

    Attributes:
        kept: it began with what an earlier run left.
        uploads: how many files xAI received.
        as_expected: whether nothing has a problem.
    """

    kept: bool
    scenes: tuple[Scene, ...]
    files: tuple[FileLine, ...]
    memory: tuple[Memory, ...]
    uploads: int
    seconds: float

    @property
    def problems(self) -> list[str]:
        """What is not as it should be."""
        told = [one.problem for one in self.scenes] + [one.problem for one in self.files]
        return [problem for problem in told if problem]

    @property
    def as_expected(self) -> bool:
        """Whether all went as it should."""
        return not self.problems


OnStep = Callable[[str], None]


# -- the sample world -----------------------------------------------------------------------------


class _Stage:
    """One demonstration: the system, its simulators, and what has happened so far."""

    def __init__(self, system: LocalSystem, story: Story, on_step: OnStep) -> None:
        if system.simulated is None:
            raise CommandError(Exit.USAGE, "the demonstration needs the simulators")
        self.system = system
        self.simulated: Simulated = system.simulated
        self.story = story
        self.on_step = on_step
        self.clock = SystemClock()

    async def quiet(self, documents: Sequence[str], seconds: float = SCENE_SECONDS) -> bool:
        """Return True once nothing is under way for the documents."""
        return await settled(self.system, self.story, documents, seconds)

    async def uploads_since(self, number: int) -> int:
        """Return how many files xAI received after call `number`."""
        calls, _ = await self.simulated.calls("xai", number)
        return sum(call["effect"] == "upload" for call in calls)

    def scene(
        self, what: str, name: str, runs: Sequence[JournalEntry], since: datetime, problem: str
    ) -> Scene:
        """Return what came of one change."""
        acted = [run for run in runs if writes(run)] or list(runs[:1])
        counts: dict[str, int] = {}
        for run in runs:
            for method, count in writes(run).items():
                counts[method] = counts.get(method, 0) + count
        ended = [run.ended for run in acted if run.ended is not None]
        took = (max(ended) - since).total_seconds() * 1000 if ended else 0
        return Scene(
            what,
            name,
            tuple(dict.fromkeys(run.rule for run in acted if run.rule)),
            acted[-1].outcome or "" if acted else "not finished",
            counts,
            max(0, round(took)),
            problem,
        )


async def sample_demo(system: LocalSystem, story: Story, *, kept: bool, on_step: OnStep) -> Demo:
    """Return how the main job went on the sample world.

    New documents, all told again, one moved, one with a changed file, one deleted. Over a kept
    world only the telling again: it shows that nothing is uploaded twice.

    Raises:
        CommandError: the simulators or ingest do not answer.
    """
    stage = _Stage(system, story, on_step)
    loop = asyncio.get_running_loop()
    began = loop.time()
    scenes: list[Scene] = []
    if not kept:
        scenes += await _new_documents(stage)
    scenes.append(await _told_again(stage))
    if not kept:
        scenes += [await _moved(stage), await _changed(stage), await _deleted(stage)]
    uploads = await stage.uploads_since(0)
    return Demo(kept, tuple(scenes), (), (), uploads, loop.time() - began)


async def _new_documents(stage: _Stage) -> list[Scene]:
    stage.on_step("New documents: EspoCRM tells of each")
    job = await announced_documents(
        stage.system, stage.story, kept=False, on_change=lambda _: None, seconds=SCENE_SECONDS
    )
    office = await stage.simulated.office()
    scenes = []
    for line in job.lines:
        runs = stage.story.of(line.document).runs
        problem = office.differs(line.document) if line.finished else "not finished"
        since = line.received or stage.system.started
        scenes.append(stage.scene("new", line.name, runs, since, problem))
    return scenes


async def _told_again(stage: _Stage) -> Scene:
    stage.on_step("All documents told again, unchanged")
    office = await stage.simulated.office()
    living = [one.id for one in office.documents.values() if not one.deleted]
    before = await stage.simulated.calls("xai", 0)
    since = stage.clock.now()
    await post_webhook(stage.system, "update", living)
    finished = await stage.quiet(living)
    runs = [run for one in living for run in stage.story.of(one).runs_since(since)]
    uploads = await stage.uploads_since(before[1])
    problem = "" if finished else "not finished"
    if uploads or any(writes(run) for run in runs):
        problem = "something was written"
    return stage.scene("told again", f"{len(living)} documents", runs, since, problem)


async def _moved(stage: _Stage) -> Scene:
    stage.on_step("A document moved from one collection to another")
    office = await stage.simulated.office()
    document = _pick(office, "Kündigung.txt")
    old = office.wanted[document]
    new = next(one for one, place in office.knowledge.items() if place not in old)
    leaving = [one for one, place in office.knowledge.items() if place in old]
    since = stage.clock.now()
    await stage.simulated.edit(action="link", id=document, knowledge=new)
    for one in leaving:
        await stage.simulated.edit(action="unlink", id=document, knowledge=one)
    return await _ended(stage, "moved", document, since)


async def _changed(stage: _Stage) -> Scene:
    stage.on_step("A document with a changed file")
    office = await stage.simulated.office()
    document = _pick(office, "Klageschrift Müller.pdf")
    old = office.documents[document].file_id
    since = stage.clock.now()
    await stage.simulated.edit(
        action="replace_file", id=document, text="%PDF-1.4 Klage, zweite Fassung (erfunden)\n"
    )
    scene = await _ended(stage, "file changed", document, since)
    now = await stage.simulated.office()
    if not scene.problem and old in now.files:
        return _with_problem(scene, "the replaced file is still at xAI")
    return scene


async def _deleted(stage: _Stage) -> Scene:
    stage.on_step("A document deleted")
    document = _pick(await stage.simulated.office(), "Mahnung Köln.pdf")
    since = stage.clock.now()
    await stage.simulated.edit(action="delete", id=document)
    return await _ended(stage, "deleted", document, since)


async def _ended(stage: _Stage, what: str, document: str, since: datetime) -> Scene:
    finished = await stage.quiet([document])
    office = await stage.simulated.office()
    problem = office.differs(document) if finished else "not finished"
    runs = stage.story.of(document).runs_since(since)
    return stage.scene(what, office.documents[document].name, runs, since, problem)


def _with_problem(scene: Scene, problem: str) -> Scene:
    return Scene(
        scene.what, scene.document, scene.rules, scene.outcome, scene.writes, scene.ms, problem
    )


def _pick(office: Office, name: str) -> str:
    return next(one.id for one in office.documents.values() if one.name == name)


# -- real files -----------------------------------------------------------------------------------


@dataclass
class _Known:
    """Which document a file became: its id, and the bytes it had."""

    id: str
    sha256: str


_KNOWN_FILES = TypeAdapter(dict[str, _Known])


@dataclass
class _Brought:
    """One file that was handed to the CRM, or told of again."""

    path: Path
    name: str
    size: int
    sha256: str
    id: str
    since: datetime = field(default_factory=SystemClock().now)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted; hidden ones are left out.

    Raises:
        CommandError: it is no folder, or holds no file.
    """
    if not folder.is_dir():
        raise CommandError(Exit.USAGE, f"{folder} is no folder: --documents takes one with files")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise CommandError(Exit.USAGE, f"{folder} holds no file: --documents takes one with files")
    return found


async def documents_demo(
    system: LocalSystem, story: Story, folder: Path, *, kept: bool, on_step: OnStep
) -> Demo:
    """Return how real files went: each becomes a document in a knowledge base.

    A file that an earlier, kept run brought is told of again, or replaced where its bytes changed.

    Raises:
        CommandError: the folder cannot be read, or the simulators do not answer.
    """
    stage = _Stage(system, story, on_step)
    loop = asyncio.get_running_loop()
    files = files_of(folder)
    if not kept:
        on_step("The sample documents first, so that the services are warm")
        await announced_documents(
            system, story, kept=False, on_change=lambda _: None, seconds=SCENE_SECONDS
        )
    book = system.state_dir / _KNOWN
    known = _read_known(book) if kept else {}
    _, number = await stage.simulated.calls("xai", 0)
    office = await stage.simulated.office()
    knowledge = next(iter(sorted(office.knowledge)))
    began = loop.time()
    brought: list[_Brought] = []
    async with _measured(system) as memory:
        for path in files:
            on_step(f"{path.name}, {size_words(path.stat().st_size)}")
            brought.append(await _bring(stage, folder, path, known, knowledge))
            _write_known(book, known)
        on_step("Waiting until each file is where it belongs")
        limit = SCENE_SECONDS + sum(one.size for one in brought) / 2**20 * _SECONDS_PER_MIB
        finished = await stage.quiet([one.id for one in brought], limit)
    office = await stage.simulated.office()
    lines = tuple(_line(stage, office, one, finished=finished) for one in brought)
    uploads = await stage.uploads_since(number)
    return Demo(kept, (), lines, tuple(memory), uploads, loop.time() - began)


async def _bring(
    stage: _Stage, folder: Path, path: Path, known: dict[str, _Known], knowledge: str
) -> _Brought:
    key = str(path.relative_to(folder))
    sha256, size = await asyncio.to_thread(_digest, path)
    since = stage.clock.now()
    before = known.get(key)
    if before is None:
        made = await stage.simulated.put_file(path, action="create", name=path.name, silent="1")
        document = str(made["id"])
        await stage.simulated.edit(action="link", id=document, knowledge=knowledge)
    else:
        document = before.id
        if before.sha256 == sha256:
            await post_webhook(stage.system, "update", [document])
        else:
            await stage.simulated.put_file(path, action="replace_file", id=document, name=path.name)
    known[key] = _Known(document, sha256)
    return _Brought(path, key, size, sha256, document, since)


def _line(stage: _Stage, office: Office, one: _Brought, *, finished: bool) -> FileLine:
    document = office.documents[one.id]
    runs = stage.story.of(one.id).runs_since(one.since)
    acted = [run for run in runs if writes(run)] or list(runs[:1])
    at_xai = office.files.get(document.file_id)
    equal = None if at_xai is None else at_xai == one.sha256
    rules = tuple(dict.fromkeys(run.rule for run in acted if run.rule))
    outcome = (acted[-1].outcome or "") if acted else "not finished"
    problem = ""
    reason = ""
    if not finished and not acted:
        problem = "not finished"
    elif at_xai is None:
        reason = document.message or _in_german(acted)
        if not reason or document.status not in _UNSUPPORTED:
            problem = "not at xAI, and EspoCRM does not say why"
    else:
        problem = office.differs(one.id) or ("" if equal else "the bytes at xAI are others")
    return FileLine(one.name, one.size, rules, outcome, equal, document.status, reason, problem)


def _in_german(runs: Sequence[JournalEntry]) -> str:
    """Return the reason as the CRM's users read it, where this CRM has no field for it."""
    reasons = {part for run in runs for part in run.reason.split("; ")}
    return next(
        (texts.not_uploaded(why, earlier=False) for why in Unfit if why.value in reasons), ""
    )


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _read_known(book: Path) -> dict[str, _Known]:
    try:
        return _KNOWN_FILES.validate_json(book.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _write_known(book: Path, known: Mapping[str, _Known]) -> None:
    book.write_text(
        json.dumps({name: {"id": one.id, "sha256": one.sha256} for name, one in known.items()}),
        "utf-8",
    )


def size_words(size: int) -> str:
    """Return a size as people say it."""
    if size < 2**10:
        return f"{size} B"
    return f"{size / 2**10:.0f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB"


@asynccontextmanager
async def _measured(system: LocalSystem) -> AsyncIterator[list[Memory]]:
    """Watch the services' memory in the block; the list is filled when it is left."""
    pids = {name: child.pid for name, child in system.children.items() if child.pid is not None}
    idle = {
        name: kib
        for name, pid in pids.items()
        if forget_highest(pid) and (kib := resident_kib(pid)) is not None
    }
    found: list[Memory] = []
    try:
        yield found
    finally:
        for name, before in idle.items():
            highest = max(highest_kib(pids[name]) or 0, before)
            mib = (before / 1024, highest / 1024, (highest - before) / 1024)
            found.append(Memory(name, *(round(one, 1) for one in mib)))
