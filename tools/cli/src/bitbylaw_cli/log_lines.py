"""The log files of the local system: read, filtered, merged, followed, and worded for people."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

LEVELS = ("debug", "info", "warning", "error")
BACKENDS = frozenset({"kafka", "redis"})
"""Logs that are shown only when they are asked for by name."""

_LOOK_SECONDS = 0.2
_KNOWN = frozenset({"time", "level", "event", "service", "exception"})
_SHORT = frozenset({"run_id", "event_id", "trace_id"})
_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red"}
_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line.

    Attributes:
        file: the file's name without its ending.
        time: RFC 3339, or empty where the program stamps its lines in a way of its own.
        level: of `LEVELS`; "info" where a line has none.
        service: who wrote it; the file's name where the line does not say.
        event: what happened; of foreign lines the whole line.
        fields: everything else.
    """

    file: str
    time: str
    level: str
    service: str
    event: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines are wanted.

    Attributes:
        service: of this service, or of the file of this name; None: all but Kafka's and Redis'.
        level: this level and worse.
        grep: lines whose text holds this, whatever its case.
    """

    service: str | None = None
    level: str = "debug"
    grep: str = ""

    def takes_file(self, name: str) -> bool:
        """Say whether lines of this file may be wanted."""
        if self.service in BACKENDS or name in BACKENDS:
            return self.service == name
        return True

    def takes(self, line: LogLine) -> bool:
        """Say whether the line is wanted."""
        if self.service is not None and self.service not in (*line.service.split("+"), line.file):
            return False
        if LEVELS.index(line.level) < LEVELS.index(self.level):
            return False
        return not self.grep or self.grep.lower() in worded(line).plain.lower()


def parsed(file: str, text: str) -> LogLine:
    """Return a line of a file; what is no JSON object of ours is one event as it stands."""
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "event" not in fields:
        return LogLine(file, "", "info", file, text, {})
    level = str(fields.get("level", "info"))
    return LogLine(
        file,
        str(fields.get("time", "")),
        level if level in LEVELS else "error",
        str(fields.get("service", file)),
        str(fields["event"]),
        {name: value for name, value in fields.items() if name not in _KNOWN - {"exception"}},
    )


def read(folder: Path, wanted: Filter) -> list[LogLine]:
    """Return the wanted lines of all files of the folder, oldest first."""
    lines = [
        line
        for path in _files(folder, wanted)
        for line in _of(path.stem, path.read_text("utf-8", "replace"))
        if wanted.takes(line)
    ]
    return sorted(lines, key=lambda line: line.time)


async def follow(folder: Path, wanted: Filter) -> AsyncIterator[LogLine]:
    """Yield the wanted lines that are written from now on, until the caller stops.

    A file that is begun anew is read from its beginning.
    """
    places = {path: path.stat().st_size for path in _files(folder, wanted)}
    while True:
        for line in await asyncio.to_thread(lambda: list(_new(folder, wanted, places))):
            yield line
        await asyncio.sleep(_LOOK_SECONDS)  # a file tells only who looks


def _new(folder: Path, wanted: Filter, places: dict[Path, int]) -> Iterator[LogLine]:
    for path in _files(folder, wanted):
        try:
            size = path.stat().st_size
            begin = places.get(path, 0)
            if size == begin:
                continue
            with path.open("rb") as file:
                file.seek(begin if size > begin else 0)
                whole = file.read().rpartition(b"\n")
                places[path] = file.tell() - len(whole[2])
        except FileNotFoundError:  # put aside by a new start just now
            continue
        for line in _of(path.stem, whole[0].decode("utf-8", "replace")):
            if wanted.takes(line):
                yield line


def _files(folder: Path, wanted: Filter) -> list[Path]:
    return [path for path in sorted(folder.glob("*.log")) if wanted.takes_file(path.stem)]


def _of(name: str, text: str) -> Iterable[LogLine]:
    return (parsed(name, line) for line in text.splitlines() if line.strip())


def worded(line: LogLine) -> Text:
    """Return a line for people: time, service, what happened, then the fields."""
    words = Text()
    if line.time:
        words.append(f"{line.time[11:23]} ", style="dim")
    words.append(f"{line.service:<14} ", style="cyan")
    words.append(line.event, style=_COLOURS.get(line.level, ""))
    for name, value in line.fields.items():
        if name == "exception":
            continue
        shown = str(value)[:8] if name in _SHORT else _shown(value)
        words.append(f" {name}=", style="dim")
        words.append(shown)
    if "exception" in line.fields:
        words.append(f"\n{line.fields['exception']}", style="red")
    return words


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def ending(log: Path, count: int = 8) -> str:
    """Return the last lines of a log for people, indented; a remark when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    shown = [worded(parsed(log.stem, line)).plain for line in lines if line.strip()]
    return "\n".join(f"  {line}" for text in shown for line in text.splitlines()) or (
        "  (its log is empty)"
    )
