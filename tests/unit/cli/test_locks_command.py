"""`bbl locks`: what is listed, and when a lock is freed, planned or refused."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import locks as locks_command
from bitbylaw_cli.output import Exit
from bitbylaw_cli.record_locks import LockList, Release
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Transient
from bitbylaw_common.locks import TTL_SECONDS, HeldLock

TAKEN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def lock(entity_id: str, *, left: float | None = 25.0, service: str = "document-sync") -> HeldLock:
    """Return a lock as it lies in Redis; one of ours unless `service` is empty."""
    return HeldLock(
        "document",
        entity_id,
        service,
        "host-7-abcd" if service else "",
        TAKEN if service else None,
        left,
        f"the token of {entity_id}",
    )


class Book:
    """Locks in memory.

    Attributes:
        meanwhile: what lies there by the time one is freed, where it changed hands.
    """

    def __init__(self, *locks: HeldLock) -> None:
        self.locks = {(one.entity, one.entity_id): one for one in locks}
        self.meanwhile: HeldLock | None = None

    async def all(self) -> list[HeldLock]:
        return list(self.locks.values())

    async def get(self, entity: str, entity_id: str) -> HeldLock | None:
        return self.locks.get((entity, entity_id))

    async def free(self, lock: HeldLock) -> bool:
        place = (lock.entity, lock.entity_id)
        if self.meanwhile is not None:
            self.locks[place] = self.meanwhile
        if self.locks.get(place) != lock:
            return False
        del self.locks[place]
        return True


class Bbl:
    """The command line over a book."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.book = Book()

        @asynccontextmanager
        async def lock_book(_settings: object) -> AsyncIterator[Book]:
            yield self.book

        monkeypatch.setattr(locks_command, "lock_book", lock_book)
        self.cli = typer.Typer()
        locks_command.register(self.cli)
        self.cli.command("other")(lambda: None)

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.cli, ["locks", *words])


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    return Bbl(monkeypatch)


def test_the_noun_is_among_the_commands() -> None:
    from bitbylaw_cli.main import COMMANDS

    assert locks_command in COMMANDS


def test_every_lock_is_listed_with_its_holder_and_its_time(bbl: Bbl) -> None:
    bbl.book = Book(lock("d1"), lock("d2", left=12.0), lock("d3", left=None, service=""))
    answer = bbl("--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    found = LockList.model_validate_json(answer.stdout).locks
    assert [(one.entity_id, one.service, one.renewed) for one in found] == [
        ("d1", "document-sync", True),
        ("d2", "document-sync", False),
        ("d3", "", False),
    ]
    assert (found[0].process, found[0].taken, found[0].seconds_left) == ("host-7-abcd", TAKEN, 25)
    assert "token" not in answer.stdout


def test_people_read_since_when_and_whether_the_holder_is_at_work(bbl: Bbl) -> None:
    taken = SystemClock().now() - timedelta(minutes=3)
    held = HeldLock("document", "d1", "document-sync", "host-7-abcd", taken, 25.0, "t")
    bbl.book = Book(held, lock("d2", left=12.0), lock("d3", left=None, service=""))
    words = bbl().stdout
    for part in (
        "document d1",
        "document-sync",
        "host-7-abcd",
        "3 min ago",
        "in 25 s",
        "at work",
        "gone, or stands still",
        "none of ours",
        "never",
    ):
        assert part in words


def test_no_lock_at_all_is_said_in_words(bbl: Bbl) -> None:
    assert bbl().stdout == "No record is locked.\n"
    assert json.loads(bbl("--json").stdout) == {"locks": []}


@pytest.mark.parametrize(
    "gone",
    [lock("d1", left=TTL_SECONDS / 3), lock("d1", left=None, service="")],
    ids=["a holder that missed its renewal", "none of ours"],
)
def test_a_lock_whose_holder_is_gone_is_planned_then_freed(bbl: Bbl, gone: HeldLock) -> None:
    bbl.book = Book(gone, lock("d2"))
    planned = bbl("release", "document", "d1", "--plan")
    assert planned.exit_code == Exit.OK
    assert planned.stdout.startswith("--yes would free the lock on document d1")
    assert len(bbl.book.locks) == 2

    answer = bbl("release", "document", "d1", "--yes", "--json")
    assert answer.exit_code == Exit.OK
    result = Release.model_validate_json(answer.stdout)
    assert (result.written, result.lock.entity_id) == (True, "d1")
    assert list(bbl.book.locks) == [("document", "d2")]


@pytest.mark.parametrize("how", ["--plan", "--yes"])
def test_a_lock_that_its_holder_renews_is_refused(bbl: Bbl, how: str) -> None:
    bbl.book = Book(lock("d1", left=TTL_SECONDS - 4))
    answer = bbl("release", "document", "d1", how)
    assert answer.exit_code == 4
    assert "document-sync (host-7-abcd) renewed its lock on document d1 4 s ago" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert len(bbl.book.locks) == 1


def test_force_frees_it_all_the_same(bbl: Bbl) -> None:
    bbl.book = Book(lock("d1"))
    answer = bbl("release", "document", "d1", "--yes", "--force")
    assert answer.exit_code == Exit.OK
    assert answer.stdout.startswith("Freed the lock on document d1, held by document-sync (")
    assert bbl.book.locks == {}


def test_a_lock_that_changed_hands_meanwhile_is_left_alone(bbl: Bbl) -> None:
    bbl.book = Book(lock("d1", left=12.0))
    bbl.book.meanwhile = lock("d1", left=30.0, service="beteiligte-sync")
    answer = bbl("release", "document", "d1", "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert "changed hands meanwhile" in answer.stderr
    assert bbl.book.locks["document", "d1"].service == "beteiligte-sync"


def test_a_record_without_a_lock_is_said_to_have_none(bbl: Bbl) -> None:
    answer = bbl("release", "document", "d1", "--yes")
    assert answer.exit_code == Exit.USAGE
    assert "nobody holds a lock on document d1" in answer.stderr


@pytest.mark.parametrize("words", [(), ("--plan", "--yes")])
def test_it_writes_only_when_asked_to(bbl: Bbl, words: tuple[str, ...]) -> None:
    bbl.book = Book(lock("d1", left=1.0))
    assert bbl("release", "document", "d1", *words).exit_code == Exit.USAGE
    assert len(bbl.book.locks) == 1


def test_a_redis_that_is_away_is_said_in_one_line(bbl: Bbl) -> None:
    class Away(Book):
        async def all(self) -> list[HeldLock]:
            raise Transient("redis", "list_locks", detail="ConnectionError")

    bbl.book = Away()
    answer = bbl()
    assert answer.exit_code == Exit.UNREACHABLE
    assert answer.stderr.startswith("Redis does not answer at ")
    assert "list_locks: ConnectionError" in answer.stderr
    assert "`bbl doctor`" in answer.stderr
    assert answer.stderr.count("\n") == 1
