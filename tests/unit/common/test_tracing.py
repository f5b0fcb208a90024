import asyncio

import pytest

from bitbylaw_common import tracing

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
