"""Who is told what, once, and what becomes of it when it is over."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from bitbylaw_common.errors import Invalid, Transient
from bitbylaw_common.outcomes import Done, Rejected
from bitbylaw_document_sync.domain.notices import Kind, Told, Trouble, telling
from bitbylaw_document_sync.domain.texts import SUBJECTS
from unit.document_sync.fakes import START, Bench, Died

EMPTY = Trouble(Kind.EMPTY, "leer")
MISSING = Trouble(Kind.COLLECTION_MISSING, "weg")
LATER = START + timedelta(days=1)


def told(trouble: Trouble) -> Told:
    return Told(kind=trouble.kind, means=trouble.means, since=START)


# -- the decision -----------------------------------------------------------------------------------


def test_what_is_new_is_told_once() -> None:
    first = telling((EMPTY, MISSING), (), "anna", START)
    assert [(one.trouble.kind, one.user_id) for one in first.notify] == [
        (Kind.EMPTY, "anna"),
        (Kind.COLLECTION_MISSING, "anna"),
    ]
    again = telling((EMPTY, MISSING), first.after, "anna", LATER)
    assert (again.notify, again.close) == ((), ())
    assert again.after == first.after


def test_a_message_counts_as_sent_before_it_is_and_a_task_once_it_is_there() -> None:
    news = telling((EMPTY, MISSING), (), "anna", START)
    assert [one.kind for one in news.before] == [Kind.EMPTY]
    assert [one.kind for one in news.after] == [Kind.EMPTY, Kind.COLLECTION_MISSING]


def test_what_is_over_closes_its_task_and_may_be_told_again() -> None:
    over = telling((), (told(EMPTY), told(MISSING)), "anna", LATER)
    assert [one.kind for one in over.close] == [Kind.COLLECTION_MISSING]
    assert over.after == ()
    assert telling((EMPTY,), over.after, "anna", LATER).notify


def test_a_look_that_does_not_conclude_ends_nothing() -> None:
    known = (told(EMPTY), told(MISSING))
    news = telling((), known, "anna", LATER, conclusive=False)
    assert news.close == ()
    assert news.after == known


def test_where_nobody_is_to_be_told_nothing_is_noted() -> None:
    news = telling((EMPTY,), (), None, START)
    assert (news.notify, news.before, news.after) == ((), (), ())


def test_a_conflict_is_told_each_time_it_happens() -> None:
    conflict = Trouble(Kind.CONFLICT, "zwei Werte")
    first = telling((conflict,), (), "anna", START)
    assert first.notify
    assert first.after == ()
    assert telling((conflict,), first.after, "anna", LATER).notify


def test_every_kind_has_a_subject() -> None:
    assert set(SUBJECTS) == set(Kind)


# -- a document ---------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.xai.add_collection("akte-1")
    return bench


def add(bench: Bench, content: bytes, *links: str, name: str = "Klage.pdf") -> None:
    bench.crm.add("d1", content, *links, name=name)
    bench.crm.rows["d1"].assigned_to = "anna"


async def test_an_empty_file_is_told_to_whom_the_record_is_assigned_and_only_once(
    bench: Bench,
) -> None:
    add(bench, b"", "akte-1")
    for _ in range(3):
        await bench.settle("d1")
    assert bench.messages.sent == [("anna", "d1", SUBJECTS[Kind.EMPTY])]
    assert "Die Datei ist leer" in bench.messages.texts[0]
    effects, writes = bench.effects(), bench.base_writes
    await bench.run("d1")
    assert (bench.effects(), bench.base_writes) == (effects, writes)


async def test_another_trouble_of_the_same_record_is_told_too(bench: Bench) -> None:
    add(bench, b"", "akte-1")
    await bench.settle("d1")
    bench.crm.replace_file("d1", b"MZ", name="Klage.exe")
    await bench.settle("d1")
    subjects = [subject for _, _, subject in bench.messages.sent]
    assert subjects == [SUBJECTS[Kind.EMPTY], SUBJECTS[Kind.UNSUPPORTED]]


async def test_after_it_was_put_right_the_same_trouble_is_told_again(bench: Bench) -> None:
    add(bench, b"", "akte-1")
    await bench.settle("d1")
    bench.crm.replace_file("d1", b"v1")
    await bench.settle("d1")
    bench.crm.replace_file("d1", b"")
    await bench.settle("d1")
    assert len(bench.messages.sent) == 2


async def test_without_an_assigned_user_the_configured_one_is_told(bench: Bench) -> None:
    bench.crm.add("d1", b"", "akte-1")
    await bench.settle("d1")
    assert bench.messages.sent == []
    configured = Bench(notify="office")
    configured.xai.add_collection("akte-1")
    configured.crm.add("d1", b"", "akte-1")
    await configured.settle("d1")
    assert configured.messages.sent == [("office", "d1", SUBJECTS[Kind.EMPTY])]


async def test_xai_18_a_collection_that_is_gone_is_a_task_until_it_is_back(bench: Bench) -> None:
    add(bench, b"v1", "akte-1", "akte-2")
    assert isinstance(await bench.settle("d1"), Rejected)
    await bench.run("d1")
    task = ("d1", SUBJECTS[Kind.COLLECTION_MISSING])
    assert bench.messages.tasks == {task: "open"}
    assert "akte-2" in bench.messages.texts[0]
    bench.xai.add_collection("akte-2")
    assert isinstance(await bench.settle("d1"), Done)
    assert bench.messages.tasks == {task: "completed"}


async def test_a_deleted_record_leaves_no_open_task(bench: Bench) -> None:
    add(bench, b"v1", "akte-1", "akte-2")
    await bench.settle("d1")
    del bench.crm.rows["d1"]
    await bench.settle("d1")
    assert set(bench.messages.tasks.values()) == {"completed"}


async def test_what_a_person_wrote_over_is_told_with_both_values(bench: Bench) -> None:
    add(bench, b"v1", "akte-1")
    await bench.settle("d1")
    ours = bench.crm.rows["d1"].xai_id or ""
    bench.crm.rows["d1"].xai_id = "file_of_somebody"
    bench.crm.rows["d1"].version += 1
    await bench.settle("d1")
    assert bench.crm.rows["d1"].xai_id == ours
    assert [subject for _, _, subject in bench.messages.sent] == [SUBJECTS[Kind.CONFLICT]]
    assert "file_of_somebody" in bench.messages.texts[0]
    assert ours in bench.messages.texts[0]


async def test_a_crm_that_takes_no_message_does_not_hold_the_document_up(bench: Bench) -> None:
    bench.messages.refuse = Invalid("espocrm", "create_entity", status=403)
    add(bench, b"v1", "akte-1", "akte-2")
    await bench.settle("d1")
    assert bench.xai.contents("akte-1") == [b"v1"]
    assert [line for line, _ in bench.log.lines if "does not let us tell" in line]


async def test_a_message_that_certainly_was_not_sent_is_sent_the_next_time(bench: Bench) -> None:
    add(bench, b"", "akte-1")
    bench.messages.refuse = Transient("espocrm", "create_entity")
    with pytest.raises(Transient):
        await bench.run("d1")
    bench.messages.refuse = None
    await bench.settle("d1")
    assert len(bench.messages.sent) == 1


async def test_a_message_without_an_answer_is_not_sent_twice(bench: Bench) -> None:
    add(bench, b"", "akte-1")
    bench.messages.refuse = Transient("espocrm", "create_entity", ambiguous=True)
    with pytest.raises(Transient):
        await bench.run("d1")
    bench.messages.refuse = None
    await bench.settle("d1")
    assert bench.messages.sent == []
    assert bench.crm.rows["d1"].message


# -- giving up --------------------------------------------------------------------------------------


async def test_only_the_last_attempt_says_that_it_gave_up(bench: Bench) -> None:
    add(bench, b"v1", "akte-1")
    bench.xai.refuse = Transient("xai", "upload_file", status=503)
    for attempt in range(1, 7):
        assert bench.messages.tasks == {}
        with pytest.raises(Transient):
            await bench.run("d1", attempt=attempt)
    task = ("d1", SUBJECTS[Kind.GAVE_UP])
    assert bench.messages.tasks == {task: "open"}
    row = bench.crm.rows["d1"]
    assert row.status == "failed"
    assert row.message is not None
    assert "6 Mal" in row.message

    # and a later success completes the task
    bench.xai.refuse = None
    row.status, row.version = "geändert", row.version + 1
    await bench.settle("d1")
    assert bench.messages.tasks == {task: "completed"}
    assert row.message is None


async def test_a_crm_that_does_not_answer_either_changes_nothing_about_the_dead_letter(
    bench: Bench,
) -> None:
    add(bench, b"v1", "akte-1")
    bench.xai.refuse = Transient("xai", "upload_file", status=503)
    bench.messages.refuse = Transient("espocrm", "create_entity")
    with pytest.raises(Transient) as raised:
        await bench.run("d1", attempt=6)
    assert raised.value.system == "xai"


# -- killed -----------------------------------------------------------------------------------------


def _unfit(bench: Bench) -> None:
    add(bench, b"", "akte-1")


def _missing(bench: Bench) -> None:
    add(bench, b"v1", "akte-1", "akte-2")


@pytest.mark.parametrize("story", [_unfit, _missing])
async def test_killed_anywhere_a_task_is_there_once_and_a_message_at_most(
    story: Callable[[Bench], None],
) -> None:
    whole = await _undisturbed(story)
    for fatal, moment in enumerate(whole.moments.names):
        bench = Bench()
        bench.xai.add_collection("akte-1")
        story(bench)
        bench.moments.fatal = fatal
        with pytest.raises(Died):
            await bench.settle("d1")
        bench.restart()
        await bench.settle("d1")
        assert bench.world() == whole.world(), moment
        assert bench.messages.tasks == whole.messages.tasks, moment
        assert len(bench.messages.texts) <= len(whole.messages.texts), moment
        assert bench.crm.rows["d1"].message, moment  # the record says it in any case
        told = list(bench.messages.texts)
        await bench.run("d1")  # a base that was made to note what was told learns the rest
        writes = bench.base_writes
        await bench.run("d1")
        assert (bench.messages.texts, bench.base_writes) == (told, writes), moment


async def _undisturbed(story: Callable[[Bench], None]) -> Bench:
    bench = Bench()
    bench.xai.add_collection("akte-1")
    story(bench)
    await bench.settle("d1")
    assert len(bench.moments.names) >= 6
    return bench
