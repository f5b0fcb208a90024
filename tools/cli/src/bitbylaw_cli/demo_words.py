"""What `bbl demo` starts, tells on the way, and shows in the end."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from rich.console import Console, RenderableType
from rich.text import Text

from bitbylaw_cli.connection import STATE_DIR
from bitbylaw_cli.demonstration import (
    Demo,
    FileLine,
    Scene,
    documents_demo,
    sample_demo,
    size_words,
)
from bitbylaw_cli.local import LocalSystem, Options
from bitbylaw_cli.main_job import watching
from bitbylaw_cli.output import table
from bitbylaw_devstack import Progress

DEMO_DIR = STATE_DIR / "demo"


async def demonstrate(documents: Path | None, telling: "Telling", *, keep: bool = False) -> Demo:
    """Return how the demonstration went; what it started has ended.

    Raises:
        CommandError: it could not start, or something of it ended by itself.
    """
    kept = keep and (DEMO_DIR / "simulators").exists()
    options = Options(
        DEMO_DIR, port=0, keep=keep, processes=documents is not None, command="bbl demo"
    )
    system = LocalSystem(options, telling.stage)
    async with system.running(), watching(system) as story:
        watch = asyncio.ensure_future(system.watch())
        if documents is None:
            work = sample_demo(system, story, kept=kept, on_step=telling.step)
        else:
            work = documents_demo(system, story, documents, kept=kept, on_step=telling.step)
        shown = asyncio.ensure_future(work)
        try:
            await asyncio.wait([watch, shown], return_when=asyncio.FIRST_COMPLETED)
            if not shown.done():
                await watch
            return shown.result()
        finally:
            for task in (watch, shown):
                task.cancel()
            await asyncio.wait([watch, shown])


@dataclass
class Telling:
    """Tells on standard error how far it is."""

    console: Console
    began: float = field(default_factory=monotonic)

    def stage(self, progress: Progress) -> None:
        """Tell a stage of the start."""
        if progress.seconds is not None:
            self.console.print(Text(f"  {progress.text:<58}{progress.seconds:6.1f} s"))
        elif progress.stage in ("download", "class archive"):
            self.console.print(Text(f"  {progress.text}"), soft_wrap=True)

    def step(self, text: str) -> None:
        """Tell what is shown now."""
        self.console.print(Text(f"{monotonic() - self.began:6.1f} s  {text}"), soft_wrap=True)

    def ending(self) -> None:
        """Say that the end was asked for."""
        self.console.print(Text("Ending"))


def words(result: Demo) -> Iterator[RenderableType]:
    """Yield the tables and the verdict."""
    yield Text("")
    if result.scenes:
        yield _scenes(result.scenes)
    if result.files:
        yield _files(result.files)
    if result.memory:
        yield Text("")
        rows = [(one.service, one.idle, one.highest, f"+{one.growth}") for one in result.memory]
        columns = ("memory of", "idle, MiB", "highest", "growth")
        yield table(columns, rows, right=columns[1:])
    yield Text("")
    count = "nothing was uploaded" if not result.uploads else f"{result.uploads} uploads"
    again = "Over the state of an earlier run: " if result.kept else ""
    yield Text(f"{again}{count}, in {result.seconds:.1f} s")
    if result.as_expected:
        yield Text("All as it should be.", style="bold green")
    else:
        yield Text(
            f"{len(result.problems)} not as it should be; the logs: {DEMO_DIR / 'logs'}",
            style="bold red",
        )


def _scenes(scenes: tuple[Scene, ...]) -> RenderableType:
    columns = ("what", "document", "rule", "outcome", "written", "ms", "")
    rows = [
        (
            one.what,
            one.document,
            ", ".join(one.rules),
            one.outcome,
            ", ".join(f"{count} {_METHODS.get(name, name)}" for name, count in one.writes.items())
            or "nothing",
            one.ms,
            _verdict(one.problem),
        )
        for one in scenes
    ]
    return table(columns, rows, right=("ms",))


_METHODS = {
    "upload_file": "uploaded",
    "add_to_collection": "attached",
    "remove_from_collection": "detached",
    "delete_file": "deleted",
    "update_entity": "written back",
}


def _files(files: tuple[FileLine, ...]) -> RenderableType:
    columns = ("file", "size", "rule", "outcome", "SHA-256 equal", "status", "")
    rows = [
        (
            one.file,
            size_words(one.bytes),
            ", ".join(one.rules),
            one.outcome,
            None if one.sha256_equal is None else ("yes" if one.sha256_equal else "NO"),
            f"{one.status}: {one.reason}" if one.reason else one.status,
            _verdict(one.problem),
        )
        for one in files
    ]
    return table(columns, rows, right=("size",))


def _verdict(problem: str) -> Text:
    return Text(problem, style="bold red") if problem else Text("ok", style="green")
