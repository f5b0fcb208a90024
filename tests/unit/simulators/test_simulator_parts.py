"""The parts both simulators are made of: clock, faults, contents, forms, queries, filters."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_simulators.calls import Effect, RequestLog
from bitbylaw_simulators.clock import START, SimClock
from bitbylaw_simulators.contents import Contents, Stored
from bitbylaw_simulators.espocrm.php import php_query
from bitbylaw_simulators.espocrm.where import Where
from bitbylaw_simulators.faults import FaultPlan, parse_fault
from bitbylaw_simulators.multipart import parts
from bitbylaw_simulators.wire import SimRequest
from bitbylaw_simulators.xai.listing import matches, page

# time


async def test_a_virtual_clock_moves_only_when_advanced() -> None:
    clock = SimClock()
    sleeper = asyncio.create_task(clock.sleep(60))
    await asyncio.sleep(0)

    clock.advance(59)
    await asyncio.sleep(0)
    assert not sleeper.done()
    clock.advance(1)

    async with asyncio.timeout(10):
        await sleeper
    assert clock.now() == START + timedelta(seconds=60)


async def test_a_clock_over_a_source_follows_it_and_can_be_ahead() -> None:
    told = datetime(2026, 1, 1, tzinfo=UTC)
    clock = SimClock(lambda: told)

    clock.advance(5)
    assert clock.now() == told + timedelta(seconds=5)
    clock.reset()
    assert clock.now() == told


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="forward"):
        SimClock().advance(-1)


async def test_a_real_clock_sleeps_for_real_unless_advanced() -> None:
    clock = SimClock.real()
    await clock.sleep(0.01)
    sleeper = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)

    clock.advance(3600)

    async with asyncio.timeout(10):
        await sleeper


# faults


def test_a_fault_strikes_by_method_path_and_operation() -> None:
    plan = FaultPlan()
    plan.plan("status", method="POST", path="^/v1/files$", operation="upload", times=None)

    assert plan.strike("POST", "/v1/files", "upload")
    assert not plan.strike("GET", "/v1/files", "upload")
    assert not plan.strike("POST", "/v1/files/x", "upload")
    assert not plan.strike("POST", "/v1/files", "list_files")


def test_of_two_faults_that_end_a_call_the_first_strikes_and_the_second_waits() -> None:
    plan = FaultPlan()
    plan.plan("reset_before")
    plan.plan("reset_after")
    plan.plan("latency", times=None)

    struck = [[fault.kind for fault in plan.strike("GET", "/", "x")] for _ in range(3)]

    assert struck == [["reset_before", "latency"], ["reset_after", "latency"], ["latency"]]


def test_chance_comes_from_the_seed_so_a_run_can_be_repeated() -> None:
    def strikes(seed: int) -> list[bool]:
        plan = FaultPlan()
        plan.plan("torn", probability=0.5, times=None, seed=seed)
        return [bool(plan.strike("GET", "/", "x")) for _ in range(64)]

    assert strikes(1) == strikes(1)
    assert strikes(1) != strikes(2)
    assert 10 < sum(strikes(1)) < 54


@pytest.mark.parametrize("entry", [{}, {"kind": "nothing"}, {"kind": "torn", "match": {"pth": 1}}])
def test_a_fault_that_cannot_be_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="unknown"):
        parse_fault(entry)


# contents


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("content", "known"),
    [
        (
            b"",
            Stored(
                md5="d41d8cd98f00b204e9800998ecf8427e",
                sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                blake3="af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                size=0,
            ),
        ),
        (
            b"Klage Version 1\n",
            Stored(
                md5="1c4ac5390b02be4eba118ff1d1221a2e",
                sha256="cadb1b21a4af7653e6e06bcdeb609426343dd37a36584ddd8043f67b991f2e93",
                blake3="751df9dd02ba27c7c13a3553b181ca72312ea02c5fc0f8e5c350ed3cd3a09cea",
                size=16,
            ),
        ),
        (
            b"Klage Version 2\n",
            Stored(
                md5="cac53ae0afdd5639e6b6fbdfb26202a2",
                sha256="48a8ab27c3f5717a64e1b8400e4a0efb84891b3a5ae343f816945930e20165a0",
                blake3="675ee4c9f09a0b2c1794717a37b183d4689682e59245eb40afe299e3dd61345d",
                size=16,
            ),
        ),
    ],
)
def test_a_content_has_the_known_hashes_and_comes_back(
    tmp_path: Path, on_disk: bool, content: bytes, known: Stored
) -> None:
    contents = Contents(tmp_path if on_disk else None)

    stored = contents.add(content)

    assert stored == known
    assert contents.read(known.sha256) == content
    answer = contents.answer(known.sha256, {})
    assert (answer.read(), answer.size) == (content, len(content))
    assert b"".join(answer.chunks(5)) == content


def test_contents_in_a_folder_are_known_again_unless_their_file_is_gone(tmp_path: Path) -> None:
    first = Contents(tmp_path)
    kept, lost = first.add(b"kept"), first.add(b"lost")
    (tmp_path / lost.sha256).unlink()

    second = Contents(tmp_path)
    second.load(first.dump())

    assert second.read(kept.sha256) == b"kept"
    with pytest.raises(KeyError):
        second.read(lost.sha256)


# the log


def test_a_call_is_logged_with_its_effect_or_else_with_its_answer() -> None:
    log = RequestLog()
    write = log.begin(SimRequest("POST", "/a"), "upload", START)
    read = log.begin(SimRequest("GET", "/b"), "list", START)

    log.answered(read, 200)
    log.happened(write, Effect("upload", "file_1"))
    log.answered(write, 200)

    assert [(call.number, call.operation) for call in log] == [(1, "list"), (2, "upload")]
    assert log.effects() == [Effect("upload", "file_1")]
    assert [call.operation for call in log.since(1)] == ["upload"]


# forms and queries


def form(*fields: str) -> bytes:
    return (
        b"".join(
            b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (f.encode(), b"x\r\n--y")
            for f in fields
        )
        + b"--b--\r\n"
    )


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('name="file"; filename="a.pdf"', "a.pdf"),
        ('name="file"; filename="Räumung.pdf"', "Räumung.pdf"),
        ('name="file"; filename="a \\"b\\".pdf"', 'a "b".pdf'),
        ('name="file"; filename="a %22b%22.pdf"', 'a "b".pdf'),
        ("name=file; filename=a.pdf", "a.pdf"),
        ('name="file"; filename="x"; filename*=UTF-8\'\'R%C3%A4umung.pdf', "Räumung.pdf"),
        ('name="file"', None),
    ],
)
def test_a_form_s_part_is_named_as_it_was_sent(disposition: str, filename: str | None) -> None:
    body = form(disposition)

    [part] = parts(body, "multipart/form-data; boundary=b")

    assert (part.name, part.filename) == ("file", filename)
    assert body[part.start : part.end] == b"x\r\n--y"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (form('name="a"')[:-6], "multipart/form-data; boundary=b"),
        (form('name="a"'), "multipart/form-data"),
        (form('name="a"'), "application/json"),
        (form('filename="a"'), "multipart/form-data; boundary=b"),
    ],
)
def test_a_form_that_is_not_whole_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason will do
        parts(body, kind)


def test_a_php_query_becomes_lists_and_objects() -> None:
    pairs = [
        ("maxSize", "5"),
        ("where[0][type]", "in"),
        ("where[0][value][]", "a"),
        ("where[0][value][]", "b"),
        ("where[1][type]", "isNull"),
    ]

    assert php_query(pairs) == {
        "maxSize": "5",
        "where": [{"type": "in", "value": ["a", "b"]}, {"type": "isNull"}],
    }


RECORD = {
    "id": "1",
    "name": "Räumungsklage",
    "count": 7,
    "active": True,
    "tags": ["a", "b"],
    "missing": None,
    "at": "2026-03-08 10:00:00",
}


@pytest.mark.parametrize(
    ("kind", "attribute", "value", "fits"),
    [
        ("equals", "name", "räumungsklage", True),
        ("equals", "missing", "x", False),
        ("notEquals", "name", "x", True),
        ("in", "count", ["6", "7"], True),
        ("notIn", "count", ["6", "7"], False),
        ("isNull", "missing", None, True),
        ("isNotNull", "missing", None, False),
        ("isTrue", "active", None, True),
        ("isFalse", "active", None, False),
        ("like", "name", "%klage", True),
        ("startsWith", "name", "Räum", True),
        ("endsWith", "name", "Räum", False),
        ("contains", "name", "ungs", True),
        ("greaterThan", "count", "7", False),
        ("greaterThanOrEquals", "count", "7", True),
        ("lessThan", "count", "10", True),
        ("lessThanOrEquals", "count", "6", False),
        ("greaterThanOrEquals", "at", "2026-03-08 10:00:00", True),
        ("after", "at", "2026-03-08 09:59:59", True),
        ("before", "at", "2026-03-08 09:59:59", False),
        ("before", "missing", "2026-03-08 09:59:59", False),
        ("between", "at", ["2026-03-08 00:00:00", "2026-03-09 00:00:00"], True),
        ("on", "at", "2026-03-08", True),
        ("today", "at", None, False),
        ("past", "at", None, True),
        ("future", "at", None, False),
        ("lastXDays", "at", "2", True),
        ("lastXDays", "missing", "2", False),
        ("arrayAnyOf", "tags", ["b", "c"], True),
        ("arrayNoneOf", "tags", ["b", "c"], False),
        ("arrayAllOf", "tags", ["a", "b"], True),
        ("arrayIsEmpty", "missing", None, True),
        ("linkedWith", "links", ["k1"], True),
        ("notLinkedWith", "links", ["k1"], False),
        ("isLinked", "links", None, True),
        ("isNotLinked", "links", None, False),
    ],
)
def test_a_filter_decides_as_the_crm_does(
    kind: str, attribute: str, value: Any, fits: bool
) -> None:
    where = Where(START, lambda record_id, link: ["k1", "k2"])
    clause = {"type": kind, "attribute": attribute, "value": value}

    assert where.fits(RECORD, clause) is fits
    assert where.fits(RECORD, {"type": "not", "value": [clause]}) is not fits
    assert where.fits(RECORD, {"type": "or", "value": [clause]}) is fits


@pytest.mark.parametrize("clause", [{"type": "equals", "attribute": "x"}, {"type": "?"}, "x"])
def test_a_filter_that_makes_no_sense_is_refused(clause: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason will do
        Where(START, lambda record_id, link: []).fits({"id": "1", "": None}, clause)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (None, True),
        ('name:"kla"', True),
        ("documents_count:>10", True),
        ("documents_count:>=11 AND documents_count:<11", False),
        ("status:!FAILED", True),
        ("status=DONE", True),
    ],
)
def test_a_collection_filter_is_understood(text: str | None, fits: bool) -> None:
    assert matches(text, {"name": "Klage", "documents_count": 11, "status": "DONE"}) is fits


def test_a_token_of_another_order_is_refused() -> None:
    _, token = page([1, 2, 3], lambda n: (str(n), n), descending=True, limit=1, token=None)

    with pytest.raises(ValueError, match="another order"):
        page([1, 2, 3], lambda n: (n, n), descending=True, limit=1, token=token)
    with pytest.raises(ValueError, match="not one of ours"):
        page([1], lambda n: (n, n), descending=True, limit=1, token="???")
