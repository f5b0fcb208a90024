import asyncio
import time
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from bitbylaw_common import spans, tracing
from bitbylaw_common.http.transport import Request
from bitbylaw_common.kafka.codec import Envelope
from bitbylaw_common.runtime.lanes import Item, LaneKey, Work
from bitbylaw_common.runtime.schedule import ScheduleEntry

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_header_is_read_and_written_back_as_it_was() -> None:
    trace = tracing.parse(HEADER)

    assert trace == tracing.Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)
    assert trace.header == HEADER


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        HEADER.upper(),
        HEADER[:-1],
        HEADER + "-more",  # version 00 has four parts
        "ff" + HEADER[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_what_is_no_traceparent_is_not_believed_and_a_new_trace_begins(header: str | None) -> None:
    assert tracing.parse(header) is None
    assert tracing.child_of(header).trace_id != tracing.child_of(header).trace_id


def test_a_later_version_is_read_by_what_this_one_knows() -> None:
    trace = tracing.parse("cc" + HEADER[2:] + "-what-ever")

    assert trace is not None
    assert trace.header == HEADER


def test_a_child_is_another_place_in_the_same_trace() -> None:
    child = tracing.child_of(HEADER)

    assert child.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert child.span_id != "00f067aa0ba902b7"
    assert tracing.parse(child.header) == child


def test_a_trace_that_is_not_recorded_stays_so() -> None:
    assert tracing.child_of(HEADER[:-2] + "00").header.endswith("-00")


def test_the_current_trace_ends_with_its_block_also_after_an_error() -> None:
    assert tracing.current() is None
    assert tracing.outgoing() is None
    outer, inner = tracing.new(), tracing.new()

    def fails() -> None:
        with tracing.use(inner):
            raise ValueError("over" if tracing.current() == inner else "not there")

    with tracing.use(outer):
        with pytest.raises(ValueError, match="over"):
            fails()
        assert tracing.current() == outer
    assert tracing.current() is None


def test_each_outgoing_call_is_a_place_of_its_own_in_the_trace() -> None:
    with tracing.use(tracing.new()) as trace:
        one, two = tracing.parse(tracing.outgoing()), tracing.parse(tracing.outgoing())

    assert one is not None
    assert two is not None
    assert one.trace_id == two.trace_id == trace.trace_id
    assert len({one.span_id, two.span_id, trace.span_id}) == 3


async def test_tasks_at_the_same_time_keep_their_own_traces() -> None:
    async def task(trace: tracing.Trace) -> bool:
        with tracing.use(trace):
            await asyncio.sleep(0)
            return tracing.current() == trace

    assert all(await asyncio.gather(*(task(tracing.new()) for _ in range(20))))


# -- spans ----------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tracing.Ended]:
    """Let spans be recorded, and return where they end up."""
    found: list[tracing.Ended] = []
    monkeypatch.setattr(tracing, "_sink", found.append)
    return found


def test_without_an_export_a_span_is_a_place_and_nothing_else() -> None:
    with tracing.span("outer", parent=HEADER) as outer:
        tracing.note({"bitbylaw.step": "Toy"}, error="Bug")
        with tracing.span("inner") as inner:
            assert tracing.current() == inner
        assert tracing.current() == outer

    assert tracing.current() is None
    assert not tracing.exporting()
    assert inner.trace_id == outer.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (outer.parent_id, inner.parent_id) == ("00f067aa0ba902b7", outer.span_id)
    assert tracing.begin("call", outer.header, attributes={}) is None


def test_a_span_lies_under_the_one_around_it_and_takes_over_its_service(
    recorded: list[tracing.Ended],
) -> None:
    with (
        tracing.span("outer", kind="consumer", service="toy") as outer,
        tracing.span("inner") as inner,
    ):
        tracing.note({"bitbylaw.count": 2})

    first, second = recorded
    assert (first.name, first.trace, first.service) == ("inner", inner, "toy")
    assert first.trace.parent_id == outer.span_id
    assert first.attributes == {"bitbylaw.count": 2}
    assert (second.name, second.kind, second.trace.parent_id) == ("outer", "consumer", "")
    assert second.began_ns <= first.began_ns <= first.ended_ns <= second.ended_ns


def test_a_wall_clock_that_is_set_meanwhile_moves_no_span_out_of_the_one_around_it(
    recorded: list[tracing.Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracing.span("outer"):
        wall = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: wall + 10**9)
        with tracing.span("inner"):
            pass

    inner, outer = recorded
    assert outer.began_ns <= inner.began_ns <= inner.ended_ns <= outer.ended_ns


def test_what_a_block_raises_ends_its_span_with_the_name_of_the_class(
    recorded: list[tracing.Ended],
) -> None:
    with pytest.raises(ValueError, match="Erika"), tracing.span("fails"):
        raise ValueError("Erika Mustermann")

    assert recorded[0].error == "ValueError"
    assert "Erika" not in repr(recorded[0])


def test_a_failure_that_was_noted_is_kept(recorded: list[tracing.Ended]) -> None:
    with tracing.span("run"):
        tracing.note(error="Transient")
        tracing.note({"bitbylaw.outcome": "retry"}, error="Bug")

    assert recorded[0].error == "Transient"
    assert recorded[0].attributes == {"bitbylaw.outcome": "retry"}


def test_a_place_that_was_made_before_is_where_the_span_is(recorded: list[tracing.Ended]) -> None:
    place = tracing.child_of(HEADER)
    with tracing.span("process", at=place) as here:
        assert here is place

    assert recorded[0].trace == place
    assert recorded[0].trace.parent_id == "00f067aa0ba902b7"


@pytest.mark.parametrize("parent", ["", "nonsense"])
def test_a_caller_without_a_trace_begins_one_even_inside_another(
    recorded: list[tracing.Ended], parent: str
) -> None:
    with tracing.span("outer") as outer, tracing.span("request", parent=parent) as request:
        assert request.trace_id != outer.trace_id

    assert recorded[0].trace.parent_id == ""


def test_a_trace_that_is_not_recorded_makes_no_spans_and_no_notes_elsewhere(
    recorded: list[tracing.Ended],
) -> None:
    with tracing.span("outer"):
        with tracing.span("inner", parent=HEADER[:-2] + "00"):
            tracing.note({"bitbylaw.step": "unseen"}, error="Bug")
            assert tracing.begin("call", tracing.outgoing(), attributes={}) is None
        tracing.note({"bitbylaw.step": "seen"})

    assert [(one.name, one.attributes, one.error) for one in recorded] == [
        ("outer", {"bitbylaw.step": "seen"}, "")
    ]


def test_links_are_the_newest_and_only_those_that_can_be_read(
    recorded: list[tracing.Ended],
) -> None:
    places = [tracing.new() for _ in range(40)]
    with tracing.span("process", links=("", "nonsense", *(place.header for place in places))):
        pass

    assert recorded[0].links == tuple(places[-tracing.LINKS_KEPT :])


def test_a_call_is_recorded_where_its_header_says_and_ends_once(
    recorded: list[tracing.Ended],
) -> None:
    with tracing.span("run", service="toy") as run:
        header = tracing.outgoing()
        call = tracing.begin("GET espocrm.get_entity", header, attributes={"bitbylaw.n": 1})
    assert call is not None
    call.end("TimeoutError")
    call.end()

    assert [one.name for one in recorded] == ["run", "GET espocrm.get_entity"]
    last = recorded[-1]
    assert last.trace.header == header
    assert (last.trace.parent_id, last.kind, last.service) == (run.span_id, "client", "toy")
    assert last.error == "TimeoutError"


def test_a_span_that_is_too_short_to_be_news_is_left_out(recorded: list[tracing.Ended]) -> None:
    with tracing.span("lock thing", min_seconds=3600):
        pass
    with tracing.span("lock thing", min_seconds=0):
        pass

    assert len(recorded) == 1


async def test_tasks_at_the_same_time_note_in_their_own_spans(
    recorded: list[tracing.Ended],
) -> None:
    async def task(number: int) -> None:
        with tracing.span(f"task {number}"):
            await asyncio.sleep(0)
            tracing.note({"bitbylaw.number": number})

    await asyncio.gather(*(task(number) for number in range(20)))

    assert {one.name: one.attributes["bitbylaw.number"] for one in recorded} == {
        f"task {number}": number for number in range(20)
    }


def test_of_traces_begun_here_the_share_that_was_asked_for_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_sampled_below", 1 << 62)  # a quarter
    flags = [tracing.new().flags for _ in range(2_000)]

    assert 350 < sum(flags) < 650
    assert tracing.child_of(HEADER).flags == 1  # who began it has decided


WORK = Work(
    LaneKey("Toy Sync", "thing", "a"),
    Item(None, None, Envelope("e"), 3),
    (),
    1,
    frozenset({"record"}),
    0,
)
ENTRY = ScheduleEntry(
    step="Toy Sync",
    entity="thing",
    entity_id="a",
    kind="retry",
    due=datetime(2026, 1, 1, tzinfo=UTC),
    since=datetime(2026, 1, 1, tzinfo=UTC),
)


def test_without_an_export_every_span_of_the_system_is_a_mere_place() -> None:
    here, hold = tracing.new(), nullcontext(enter_result=True)
    places = [
        spans.request("POST", "/toy/{thing}", HEADER),
        spans.publish(["toy.thing.changed"], service="toy", under=here),
        spans.run(WORK, at=here, service="toy", run_id="r", attempt=1),
        spans.due(ENTRY, service="toy", late_seconds=0.0),
    ]

    assert {type(place) for place in places} == {tracing.use}
    assert spans.lock("thing", hold) is hold
    assert spans.call(Request("xai", "list", "GET", "http://xai"), here.header) is None


def test_the_spans_of_the_system_need_no_position_and_no_carried_event(
    recorded: list[tracing.Ended],
) -> None:
    with spans.run(WORK, at=tracing.new(), service="toy", run_id="r", attempt=1, earlier=HEADER):
        spans.ended("done", error="", effects=2)
    with spans.due(ENTRY, service="toy", late_seconds=1.5):
        pass
    with spans.publish(["a", "b"], service="toy", under=tracing.new()):
        spans.published(["1", "2"], [])

    run, due, send = recorded
    assert (run.name, run.service) == ("process thing", "toy")
    assert [link.span_id for link in run.links] == ["00f067aa0ba902b7"]
    assert run.attributes["bitbylaw.outcome"] == "done"
    assert (due.name, due.links, due.trace.parent_id) == ("due Toy Sync", (), "")
    assert due.attributes["bitbylaw.schedule.late_seconds"] == 1.5
    assert send.name == "send"
    assert send.attributes["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in send.attributes
