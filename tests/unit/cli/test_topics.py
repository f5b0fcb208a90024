"""The catalogue as a page, and as a plan over Kafka's topics."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_cli.commands import topics as topics_command
from bitbylaw_cli.output import Exit
from bitbylaw_cli.topic_page import markdown
from bitbylaw_cli.topic_plan import TopicPlan
from bitbylaw_common.kafka.admin import TopicChange
from bitbylaw_common.topics import Topic, catalogue
from unit.cli.shelf import Bbl, Shelf

PAGE = Path(__file__).parents[3] / "docs" / "topics.md"
CREATE = TopicChange("vmh.document.create", "create", "12 partitions")
REFUSE = TopicChange("sync.journal", "refuse", "it has 3 partitions instead of 12")


class FakeAdmin:
    """A Kafka on which these changes are due until they are applied; "refuse" stays."""

    def __init__(self, changes: Sequence[TopicChange]) -> None:
        self.changes = list(changes)
        self.replication: int | None = None

    async def plan(self, wanted: Iterable[Topic[Any]]) -> list[TopicChange]:
        assert len(list(wanted)) == len(list(catalogue()))
        return list(self.changes)

    async def apply(
        self, wanted: Iterable[Topic[Any]], *, replication: int | None = None
    ) -> list[TopicChange]:
        due = await self.plan(wanted)
        self.replication = replication
        self.changes = [change for change in due if change.kind == "refuse"]
        return due


@pytest.fixture
def bbl() -> Bbl:
    return Bbl(Shelf())


def _kafka(monkeypatch: pytest.MonkeyPatch, *changes: TopicChange) -> FakeAdmin:
    fake = FakeAdmin(changes)

    @asynccontextmanager
    async def open_admin(_env: object) -> AsyncIterator[FakeAdmin]:
        yield fake

    monkeypatch.setattr(topics_command, "open_admin", open_admin)
    return fake


def test_the_page_in_docs_is_the_catalogue(bbl: Bbl) -> None:
    assert PAGE.read_text() == markdown(), "run: bbl topics docs > docs/topics.md"
    assert bbl("topics", "docs").stdout == markdown()


def test_the_page_names_every_topic_and_marks_the_personal_ones() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [topic.name for topic in catalogue()]
    personal = {row.split("`")[1] for row in rows if "| yes |" in row}
    assert personal == {topic.name for topic in catalogue() if topic.personal}


def test_the_catalogue_as_json_has_every_topic(bbl: Bbl) -> None:
    rows = json.loads(bbl("topics", "docs", "--json").stdout)
    assert [row["name"] for row in rows] == [topic.name for topic in catalogue()]


def test_topics_as_declared_are_no_finding(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    _kafka(monkeypatch)
    answer = bbl("topics", "plan")
    assert answer.exit_code == Exit.OK
    assert answer.stdout == f"All {len(list(catalogue()))} topics are as declared.\n"


def test_a_difference_is_a_finding_and_is_shown(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _kafka(monkeypatch, CREATE)
    for words in (("topics", "plan"), ("topics", "apply", "--plan")):
        answer = bbl(*words, "--json")
        assert answer.exit_code == Exit.FINDING
        plan = TopicPlan.model_validate_json(answer.stdout, strict=True)
        assert (plan.changes, plan.written) == ((CREATE,), False)
    assert "vmh.document.create" in bbl("topics", "plan").stdout
    assert fake.changes == [CREATE]


def test_apply_brings_them_in_line(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _kafka(monkeypatch, CREATE)
    answer = bbl("topics", "apply", "--yes", "--replication", "2")
    assert answer.exit_code == Exit.OK
    assert (fake.changes, fake.replication) == ([], 2)
    assert "1 of" in answer.stdout
    assert bbl("topics", "plan").exit_code == Exit.OK


def test_what_must_not_be_done_by_itself_ends_with_refused(
    bbl: Bbl, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kafka(monkeypatch, CREATE, REFUSE)
    answer = bbl("topics", "apply", "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert "it has 3 partitions instead of 12" in answer.stdout


def test_apply_wants_plan_or_yes(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _kafka(monkeypatch, CREATE)
    answer = bbl("topics", "apply")
    assert answer.exit_code == Exit.USAGE
    assert "--plan" in answer.stderr
    assert fake.changes == [CREATE]


def test_a_kafka_that_does_not_answer_is_named(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    answer = bbl("topics", "plan")
    assert answer.exit_code == Exit.UNREACHABLE
    assert "127.0.0.1:1" in answer.stderr


def test_help_lists_the_verbs(bbl: Bbl) -> None:
    words = bbl("topics", "--help").stdout
    assert all(verb in words for verb in ("plan", "apply", "docs"))
