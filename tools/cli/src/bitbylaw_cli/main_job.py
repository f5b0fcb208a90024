"""The main job, watched: documents are announced, and each one's way is told until it is finished."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from bitbylaw_cli.local import LocalSystem
from bitbylaw_cli.output import CommandError, Exit, table
from bitbylaw_cli.story import Line, Story, line_of, writes
from bitbylaw_common.journal import JournalEntry

JOB_SECONDS = 90.0
"""How long the announced documents may take together."""
ECHO_SECONDS = 10.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class MainJob:
    """How the announced documents went.

    Attributes:
        announced: "webhooks of EspoCRM", or "looked at again" where a kept world was there.
        seconds: from the announcement to the last end.
        finished: whether all of them ended in time.
        echoes: runs that EspoCRM's webhooks about our own write-backs caused.
        echo_writes: what those wrote; none, as long as content decides.
    """

    announced: str
    lines: tuple[Line, ...]
    seconds: float
    finished: bool
    echoes: int = 0
    echo_writes: int = 0


@asynccontextmanager
async def watching(
    system: LocalSystem, on_run: Callable[[JournalEntry], None] = lambda _: None
) -> AsyncIterator[Story]:
    """Follow what happens to documents, from the system's start on, for the length of the block."""
    story = Story(system.started, on_run)
    following = asyncio.create_task(story.follow(system.log))
    try:
        yield story
    finally:
        following.cancel()
        await asyncio.wait([following])


async def announced_documents(
    system: LocalSystem,
    story: Story,
    *,
    kept: bool,
    on_change: Callable[[Sequence[Line]], None],
    seconds: float = JOB_SECONDS,
) -> MainJob:
    """Return how the sample documents went, once each is finished or the time is over.

    The simulated EspoCRM announces a fresh world by itself. Documents of a kept world are posted
    once more, as its webhooks would.

    Raises:
        CommandError: the simulators or ingest do not answer.
    """
    simulated = system.simulated
    if simulated is None:
        raise CommandError(Exit.USAGE, "documents are announced only with the simulators")
    loop = asyncio.get_running_loop()
    began = loop.time()
    office = await simulated.office()
    names = {one.id: one.name for one in office.documents.values() if not one.deleted}
    if kept:
        await post_webhook(system, "update", list(names))
    lines: list[Line] = []

    def moved() -> bool:
        nonlocal lines
        now = [line_of(document, name, story.of(document)) for document, name in names.items()]
        if now != lines:
            lines = now
            on_change(now)
        return all(line.finished for line in now)

    finished = await story.until(moved, seconds)
    took = loop.time() - began
    if finished:
        # the write-backs make EspoCRM tell again: those webhooks belong to the picture
        await settled(system, story, list(names), ECHO_SECONDS)
    told = [story.of(document) for document in names]
    echoes = [run for one in told for run in one.runs[len(one.way) :]]
    how = "looked at again" if kept else "webhooks of EspoCRM"
    return MainJob(
        how,
        tuple(lines),
        took,
        finished,
        len(echoes),
        sum(sum(writes(run).values()) for run in echoes),
    )


async def post_webhook(system: LocalSystem, action: str, documents: Sequence[str]) -> None:
    """Post one webhook of documents to ingest, as EspoCRM words it.

    Raises:
        CommandError: it was not answered 200.
    """
    url = f"{system.url}/vmh/webhook/document/{action}"
    body = [{"id": document, "entityType": "CDokumente"} for document in documents]
    async with system.session.post(url, json=body) as answer:
        if answer.status != 200:
            raise CommandError(Exit.FINDING, f"{url} answered {answer.status} to a webhook")


async def settled(
    system: LocalSystem, story: Story, documents: Sequence[str], seconds: float
) -> bool:
    """Return True once EspoCRM has delivered everything and a run answered each event.

    False when that did not come about within `seconds`.
    """
    simulated = system.simulated
    if simulated is None:
        return False
    try:
        async with asyncio.timeout(seconds):
            while True:
                if (await simulated.office()).undelivered == 0:
                    # delivered means stored, but not yet that we have read it
                    await story.catch_up(system.log)
                    if story.answered(documents):
                        return True
                await asyncio.sleep(_POLL_SECONDS)  # the simulated CRM tells only who asks
    except TimeoutError:
        return False


def job_table(lines: Sequence[Line], collections: Mapping[str, str]) -> RenderableType:
    """Return the table of documents on their way.

    Args:
        lines: one a document.
        collections: their names by id.
    """
    columns = ("document", "received", "uploaded", "attached to", "written back", "outcome", "ms")
    rows = [
        (
            line.name,
            None if line.received is None else line.received.astimezone().strftime("%H:%M:%S"),
            Text("yes", style="green") if line.uploaded else None,
            ", ".join(collections.get(one, one) for one in line.attached),
            Text("yes", style="green") if line.written_back else None,
            outcome_words(line),
            line.ms,
        )
        for line in lines
    ]
    return Group(table(columns, rows, right=("ms",)))


_COLOURS = {"done": "green", "skipped": "green", "wait": "yellow", "retry": "yellow"}


def outcome_words(line: Line) -> Text:
    """Return a line's state in colour, with the reason where nothing was done."""
    words = line.state
    if line.state not in ("done", "received", "working", "waiting for its webhook"):
        words = f"{line.state}: {line.reason}"
    default = "dim" if line.received is None or not line.rule else "red"
    return Text(words, style=_COLOURS.get(line.state, default))
