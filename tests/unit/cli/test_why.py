"""One record's story, told from what the whole system wrote about it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import pytest

from bitbylaw_cli.chronicle import Story, entity_of, why
from bitbylaw_cli.commands.why import rendered
from bitbylaw_cli.letters import redrive
from bitbylaw_cli.output import CommandError, Exit, out
from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.ports import Outgoing, Record
from unit.cli.shelf import NOW, SERVICE, STEP, Bbl, Shelf, entry, letter, open_instead
from world import World


class Died(BaseException):
    """The process was killed here."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.stop()


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def _klage(world: World) -> str:
    return world.espocrm.add_document(
        "Klage Meier.pdf", b"v1", collections=[world.add_collection("akte-1")]
    )


async def _why(world: World, document: str) -> Story:
    return await why(world.host.log, "document", document, world.host.clock.now())


def _printed(story: Story) -> str:
    console = out()
    with console.capture() as captured:
        for part in rendered(story):
            console.print(part)
    return captured.get()


# -- stories of the whole system -------------------------------------------------------------------


async def test_a_synced_document_is_in_line_and_its_story_names_every_effect(world: World) -> None:
    klage = _klage(world)
    await world.told("create", klage)
    await world.advance(minutes=10)
    await world.told("update", klage)
    story = await _why(world, klage)
    assert (story.state, story.unanswered, story.planned) == ("in line", 0, ())
    assert story.since == story.moments[1].at + timedelta(
        milliseconds=story.moments[1].milliseconds or 0
    )
    assert [moment.kind for moment in story.moments] == ["received", "run", "received", "run"]
    came, first, _, second = story.moments
    assert came.words == "EspoCRM's webhook: create"
    assert first.words.startswith("Document Sync: done: 1 uploaded, 1 attached, EspoCRM told")
    assert first.details[0].startswith("decided row ")
    effects = "\n".join(first.details[1:])
    assert "xai upload_file" in effects
    assert "xai add_to_collection" in effects
    assert "wrote back to EspoCRM: update_entity" in effects
    assert second.words.startswith("Document Sync: nothing to do")
    assert story.verdict.startswith("In line since 2026-03-02 09:00:00Z (10 min ago): 1 uploaded")
    assert "looked at last" in story.verdict
    printed = _printed(story)
    assert printed.startswith("In line since")
    assert "Meier" not in printed + story.model_dump_json()


async def test_a_document_that_failed_waits_until_its_next_attempt(world: World) -> None:
    klage = _klage(world)
    world.xai.faults.plan("status", status=503, times=None)
    await world.told("create", klage)
    story = await _why(world, klage)
    assert story.state == "failing"
    assert story.verdict.startswith("Waiting until 2026-03-02 09:01:")
    assert "(in 1 min) because xai answered 503" in story.verdict
    assert "attempt 1 of 6 failed" in story.verdict
    (planned,) = story.planned
    assert (planned.kind, planned.attempt, planned.service) == ("retry", 1, SERVICE)
    assert "planned: Document Sync looks at it again" in _printed(story)


async def test_patience_that_was_asked_for_is_no_failure(world: World) -> None:
    klage = _klage(world)
    world.xai.faults.plan("rate_limit", operation="upload", retry_after=30)
    await world.told("create", klage)
    story = await _why(world, klage)
    assert story.state == "waiting"
    assert "(no failure)" in story.verdict


async def test_an_edit_that_was_overwritten_says_where_both_values_are(world: World) -> None:
    klage = _klage(world)
    await world.told("create", klage)
    world.espocrm.edit(klage, silent=True, xaiId="file_of_a_person")
    await world.told("update", klage)
    (conflict,) = world.host.journal(klage)[-1].conflicts
    story = await _why(world, klage)
    (line,) = [one for one in story.moments[-1].details if "overwritten" in one]
    assert f"as conflict {conflict}: `bbl tail sync.conflicts --key {klage} " in line
    assert "file_of_a_person" not in _printed(story)


async def test_a_dead_document_names_its_letter_and_what_to_press_until_a_redrive_mends_it(
    world: World,
) -> None:
    klage = _klage(world)
    world.xai.faults.plan("status", status=400, operation="upload")
    await world.told("create", klage)
    story = await _why(world, klage)
    assert story.state == "dead"
    assert story.dead is not None
    assert f"`bbl dlq redrive {SERVICE} {story.dead} --yes`" in story.verdict

    await world.advance(hours=1)
    await redrive(world.host.log, world.host.clock, SERVICE, story.dead, write=True)
    asked = await _why(world, klage)
    assert asked.state == "dead"
    assert asked.verdict.endswith("1 newer event is not looked at yet.")
    await world.settle()
    mended = await _why(world, klage)
    assert mended.state == "in line"
    assert [moment.kind for moment in mended.moments][-2:] == ["requested", "run"]
    assert mended.moments[-2].words == "an operator asked for a run"


async def test_an_interrupted_run_says_which_later_run_found_out(world: World) -> None:
    klage = _klage(world)

    def die(moment: str) -> None:
        if moment == "after add_to_collection":
            raise Died(moment)

    world.transport.on_moment = die
    with pytest.raises(Died):
        await world.told("create", klage)
    broken = await _why(world, klage)
    assert broken.state == "running"  # it may be: its time is not up
    later = await why(
        world.host.log, "document", klage, world.host.clock.now() + timedelta(minutes=5)
    )
    assert later.state == "interrupted"
    assert later.moments[-1].details[-1] == "not resolved yet"

    world.transport.on_moment = lambda _: None
    await world.host.restart(SERVICE)
    await world.settle()
    story = await _why(world, klage)
    assert story.state == "in line"
    assert [moment.kind for moment in story.moments] == ["received", "interrupted", "run"]
    interrupted, finished = story.moments[1:]
    assert interrupted.details[-1].startswith(f"found out by run {finished.run_id} of ")


async def test_what_waits_for_a_running_run_is_answered_by_the_next_at_once(world: World) -> None:
    klage = _klage(world)
    for _ in range(3):
        await world.webhook("document", "update", klage)
    waiting = await _why(world, klage)
    assert (waiting.state, waiting.unanswered) == ("received", 3)
    await world.settle()
    story = await _why(world, klage)
    assert (story.state, story.unanswered) == ("in line", 0)
    assert [moment.kind for moment in story.moments[3:]] == ["run", "run"]
    assert "answers 2 events at once" in story.moments[-1].details
    assert [m.words.endswith("(the same was posted before)") for m in story.moments[:3]] == [
        False,
        True,
        True,
    ]


async def test_a_record_nobody_spoke_of_was_never_seen(world: World) -> None:
    await world.told("create", _klage(world))
    story = await _why(world, "other")
    assert (story.state, story.since, story.moments) == ("never seen", None, ())
    assert story.verdict.startswith("Never seen")


# -- the command -----------------------------------------------------------------------------------


def _changed(bbl: Bbl, entity_id: str, entity: str = "CDokumente") -> None:
    topic = topics.DOCUMENT_UPDATE if entity == "CDokumente" else topics.BETEILIGTE_UPDATE
    bbl.shelf.put(topic, EntityChanged(entity_type=entity, entity_id=entity_id, action="update"))


def _ran(bbl: Bbl, entity_id: str, outcome: str, *, run_id: str = "r1") -> None:
    now = bbl.shelf.clock.now()
    run = JournalEntry(
        phase="end", service=SERVICE, step=STEP, entity="document", entity_id=entity_id,
        run_id=run_id, event_id="e", began=now, ended=now + timedelta(seconds=1),
        outcome=outcome, summary="1 uploaded", rule="row 2", reason="no file yet",
    )  # fmt: skip
    number = codec.partition_of(entity_id.encode())
    bbl.shelf.append(
        Outgoing(topics.JOURNAL.name, run.key, run.model_dump_json().encode(), {}, number)
    )


def _story(bbl: Bbl, *words: str, code: Exit = Exit.OK) -> Story:
    answer = bbl("why", *words, "--json")
    assert answer.exit_code == code, answer.stderr
    return Story.model_validate_json(answer.stdout)


@pytest.mark.parametrize("word", ["document", "Dokument", "CDokumente", "cdokumente"])
def test_an_entity_is_called_as_people_and_the_crm_call_it(bbl: Bbl, word: str) -> None:
    _changed(bbl, "d1")
    _ran(bbl, "d1", "done")
    assert _story(bbl, word, "d1").state == "in line"
    assert bbl("why", word, "d1").stdout.startswith("In line since 2026-03-02 09:00:02Z")


def test_an_unknown_entity_is_answered_with_the_nearest(bbl: Bbl) -> None:
    answer = bbl("why", "beteiligt", "b1")
    assert answer.exit_code == Exit.USAGE
    assert "the nearest is 'beteiligte'" in answer.stderr
    with pytest.raises(CommandError):
        entity_of("")


@pytest.mark.parametrize(
    ("outcome", "state", "code"),
    [
        ("done", "in line", Exit.OK),
        ("skipped", "in line", Exit.OK),
        ("rejected", "dead", Exit.FINDING),
        ("bug", "dead", Exit.FINDING),
    ],
)
def test_only_what_somebody_should_look_at_is_a_finding(
    bbl: Bbl, outcome: str, state: str, code: Exit
) -> None:
    _ran(bbl, "d1", outcome)
    assert _story(bbl, "document", "d1", code=code).state == state


def test_a_wait_without_a_failure_is_no_finding_and_one_with_is(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", entry("d1", kind="wait", attempt=0))
    assert _story(bbl, "document", "d1").state == "waiting"
    bbl.shelf.schedule("d1", entry("d1", kind="wait", attempt=1))
    assert _story(bbl, "document", "d1", code=Exit.FINDING).state == "failing"


def test_what_is_long_overdue_asks_whether_the_service_runs(bbl: Bbl) -> None:
    bbl.shelf.schedule("d1", entry("d1"))  # due in March 2026, and the command asks the real clock
    verdict = _story(bbl, "document", "d1", code=Exit.FINDING).verdict
    assert verdict.startswith("Due since 2026-03-02 09:05:00Z")
    assert "does document-sync run?" in verdict


def test_an_event_that_no_service_works_on_says_so(bbl: Bbl) -> None:
    _changed(bbl, "b1", "CBeteiligte")
    story = _story(bbl, "beteiligte", "b1")
    assert story.state == "received"
    assert "No service of this version works on beteiligte" in story.verdict


def test_an_unreadable_record_among_the_dead_letters_is_a_death_until_a_run_comes_after(
    bbl: Bbl,
) -> None:
    number = codec.partition_of(b"d1")
    bbl.shelf.append(Outgoing(topics.DOCUMENT_UPDATE.name, b"d1", b"Meier"))
    dead = letter(
        "", step="", entity="", error="Undecodable", reason="no JSON", carried=None, raw="TWVpZXI=",
        run_id="x", origin=f"{topics.DOCUMENT_UPDATE.name}:{number}:0",
    )  # fmt: skip
    bbl.shelf.append(Outgoing(f"{SERVICE}.dlq", b"d1", dead.to_bytes(), {}, number))
    story = _story(bbl, "document", "d1", code=Exit.FINDING)
    assert story.state == "dead"
    assert f"`bbl dlq show {SERVICE} {SERVICE}.dlq:{number}:0`" in story.verdict
    assert {moment.kind for moment in story.moments} == {"unreadable"}
    assert "Meier" not in bbl("why", "document", "d1").stdout
    _ran(bbl, "d1", "done")
    assert _story(bbl, "document", "d1").state == "in line"


def test_records_of_others_in_the_same_partition_are_none_of_its_story(bbl: Bbl) -> None:
    number = codec.partition_of(b"d1")
    neighbours = [n for n in map(str, range(200)) if codec.partition_of(n.encode()) == number]
    _ran(bbl, "d1", "done")
    for neighbour in neighbours[:5]:
        _changed(bbl, neighbour)
        _ran(bbl, neighbour, "rejected", run_id=neighbour)
        bbl.shelf.schedule(neighbour, entry(neighbour))
        bbl.shelf.bury(letter(neighbour))
    story = _story(bbl, "document", "d1")
    assert (story.state, len(story.moments)) == ("in line", 1)


def test_a_long_story_shows_its_last_moments_and_says_how_many_came_before(bbl: Bbl) -> None:
    for number in range(12):
        _ran(bbl, "d1", "done", run_id=f"r{number}")
    assert "9 earlier moments; --last 0" in bbl("why", "document", "d1", "--last", "3").stdout
    assert bbl("why", "document", "d1", "--last", "0").stdout.count("Document Sync: done") == 12
    assert len(_story(bbl, "document", "d1", "--last", "3").moments) == 12


def test_help_says_what_the_exit_code_means(bbl: Bbl) -> None:
    words = bbl("why", "--help").stdout
    assert "Ends with 1" in words


def test_only_the_partition_of_the_id_is_read() -> None:
    asked: list[tuple[str, int]] = []

    class Watched:
        def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
            asked.extend(starts)
            return Shelf().log.read(starts)

    asyncio.run(why(Watched(), "document", "d1", NOW))
    assert {partition for _, partition in asked} == {codec.partition_of(b"d1")}
    assert {topic for topic, _ in asked} == {
        *(topic.name for topic in topics.DOCUMENT),
        topics.JOURNAL.name,
        f"{SERVICE}.requests",
        f"{SERVICE}.schedule",
        f"{SERVICE}.dlq",
    }


async def test_a_verdict_names_the_rule_so_that_an_unfit_file_is_not_taken_for_synced(
    world: World,
) -> None:
    exe = world.espocrm.add_document(
        "Klage.exe", b"MZ", collections=[world.add_collection("akte-1")]
    )
    await world.told("create", exe)
    story = await _why(world, exe)
    assert story.state == "in line"
    assert "EspoCRM told (row 12: not fit for xAI)" in story.verdict
