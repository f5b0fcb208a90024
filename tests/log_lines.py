"""What a test's code logs, as it would be written, line by line."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitbylaw_common import logs
from bitbylaw_common.logs import Level


class _Lines(io.StringIO):
    """A stream that keeps each JSON line as its fields."""

    def __init__(self, kept: list[dict[str, Any]]) -> None:
        super().__init__()
        self._kept = kept

    def write(self, text: str) -> int:
        self._kept.extend(json.loads(line) for line in text.splitlines() if line.strip())
        return len(text)


@contextmanager
def captured(level: Level = "info") -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of the block as they come, each a dict with `event` and `level`."""
    kept: list[dict[str, Any]] = []
    logs.configure("json", level, _Lines(kept))
    try:
        yield kept
    finally:
        logs.configure("json", "warning", sys.stderr)
