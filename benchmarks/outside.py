"""The outside system of the kills: a file of SQLite that outlives every process."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (number INTEGER, began INTEGER, ended INTEGER, wrote INTEGER);
CREATE TABLE IF NOT EXISTS state (thing TEXT PRIMARY KEY, number INTEGER);
CREATE TABLE IF NOT EXISTS writes (thing TEXT, number INTEGER);
"""


class Run(NamedTuple):
    """One run of the handler, as the outside saw it.

    Attributes:
        run: counts the runs in the order they began.
        ended: nanoseconds since the epoch; None when the process was killed in the middle.
        wrote: whether it wrote.
    """

    run: int
    number: int
    began: int
    ended: int | None
    wrote: bool


@dataclass(slots=True)
class Outside:
    """What the handler reads and writes, and who was there when."""

    connection: sqlite3.Connection

    @classmethod
    def open(cls, path: Path) -> "Outside":
        """Open the file; make it at the first time."""
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        # a killed process loses nothing that it handed to the system: no write need reach the disk
        connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLES}")
        return cls(connection)

    def begin(self, number: int) -> int:
        """Note that a run begins; return what `end` wants."""
        cursor = self.connection.execute(
            "INSERT INTO runs (number, began, wrote) VALUES (?, ?, 0)", (number, time.time_ns())
        )
        return cursor.lastrowid or 0

    def holds(self, thing: str, number: int) -> bool:
        """Whether the thing is as far as event `number` wants it."""
        query = "SELECT number FROM state WHERE thing = ?"
        found = self.connection.execute(query, (thing,)).fetchone()
        return found is not None and found[0] >= number

    def write(self, run: int, thing: str, number: int) -> None:
        """Bring the thing to `number`: all of it or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO writes VALUES (?, ?)", (thing, number))
        self.connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (thing, number))
        self.connection.execute("UPDATE runs SET wrote = 1 WHERE rowid = ?", (run,))
        self.connection.execute("COMMIT")

    def end(self, run: int) -> None:
        """Note that a run ended."""
        now = time.time_ns()
        self.connection.execute("UPDATE runs SET ended = ? WHERE rowid = ?", (now, run))

    def handled(self) -> int:
        """Return how many records had a run that ended."""
        query = "SELECT COUNT(DISTINCT number) FROM runs WHERE ended IS NOT NULL"
        return int(self.connection.execute(query).fetchone()[0])

    def runs(self) -> list[Run]:
        """Return every run in the order they began."""
        query = "SELECT rowid, number, began, ended, wrote FROM runs ORDER BY rowid"
        found = self.connection.execute(query)
        return [
            Run(run, number, began, ended, bool(wrote))
            for run, number, began, ended, wrote in found
        ]

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
