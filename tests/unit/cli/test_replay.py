"""`bbl replay`: records asked for again in their order, at a pace, to be followed and called off."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bitbylaw_cli import replaying
from bitbylaw_cli.commands import replay as replay_command
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.replaying import (
    QUIET,
    Cancellation,
    Range,
    Replay,
    ReplayList,
    ReplayStand,
    moment,
    plan,
    selected,
    send,
    stands,
)
from bitbylaw_common import topics
from bitbylaw_common.events import EntityChanged, ReplayCancelled, RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.control import FunctionInfo, TriggerInfo
from bitbylaw_common.runtime.hosts.memory_host import MemoryLog
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from unit.cli.shelf import NOW, SERVICE, STEP, Shelf

TOPIC = "vmh.document.update"
FUNCTION = f"steps::{STEP}::trigger::1"
REQUESTS = f"{SERVICE}.requests"
SECOND = timedelta(seconds=1)


class Bbl:
    """`bbl replay` over a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.cli = typer.Typer(no_args_is_help=True)
        replay_command.register(self.cli)

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.cli, ["replay", *words])


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield shelf.log

    monkeypatch.setattr(replay_command, "open_log", open_log)
    bbl = Bbl(shelf)
    for number, action in enumerate(("create", "update", "delete", "sync_check")):
        declare(bbl, f"vmh.document.{action}", f"steps::{STEP}::trigger::{number}")
    return bbl


def declare(bbl: Bbl, topic: str, function_id: str, service: str = SERVICE) -> None:
    info = FunctionInfo(
        function_id=function_id, name=STEP, description="d", service=service, flows=(),
        trigger=TriggerInfo(type="queue", config={"topic": topic}), enqueues=(),
    )  # fmt: skip
    bbl.shelf.put(topics.FUNCTIONS, info)


def change(entity_id: str, number: int = 0) -> EntityChanged:
    return EntityChanged(
        entity_type="CDokumente", entity_id=entity_id, action="update", changed=(f"n{number}",)
    )


def put(bbl: Bbl, *ids: str) -> None:
    """Store an update of each, a second apart."""
    for number, entity_id in enumerate(ids):
        bbl.shelf.put(topics.DOCUMENT_UPDATE, change(entity_id, number))


def asked(bbl: Bbl) -> list[tuple[Record, RunRequested]]:
    """Return the requests, in the order in which they were sent."""
    found = [
        (record, RunRequested.model_validate_json(record.value or b""))
        for record in bbl.shelf.records(REQUESTS)
    ]
    return sorted(found, key=lambda one: one[1].number)


def replayed(bbl: Bbl, *words: str) -> Replay:
    answer = bbl(TOPIC, *words, "--json", "--rate", "1000")
    assert answer.exit_code == Exit.OK, answer.stderr
    return Replay.model_validate_json(answer.stdout, strict=True)


def ran(
    bbl: Bbl, entity_id: str, outcome: str, *, origin: str = "", began: datetime, answers: int = 2
) -> None:
    run = JournalEntry(
        phase="end", service=SERVICE, step=STEP, entity="document", entity_id=entity_id,
        run_id="r", event_id="e", began=began, ended=began, outcome=outcome, origin=origin,
        answers=answers,
    )  # fmt: skip
    number = codec.partition_of(entity_id.encode())
    bbl.shelf.append(
        Outgoing(topics.JOURNAL.name, run.key, run.model_dump_json().encode(), {}, number)
    )


def replays(bbl: Bbl, now: datetime | None = None) -> list[ReplayStand]:
    found = asyncio.run(stands(bbl.shelf.log, now or bbl.shelf.clock.now()))
    return list(found.replays)


# What is meant --------------------------------------------------------------------------------------


def test_a_plan_tells_how_many_when_and_who_works_on_them_and_sends_nothing(bbl: Bbl) -> None:
    put(bbl, "d1", "d2", "d1")
    first = bbl.shelf.records(TOPIC)[0]
    found = replayed(bbl, "--plan")
    assert (found.count, found.sent, found.written, found.replay_id) == (3, 0, False, "")
    assert (found.service, found.step, found.function_id) == (SERVICE, STEP, FUNCTION)
    assert found.last is not None
    assert found.first == min(r.time for r in bbl.shelf.records(TOPIC) if r.time is not None)
    assert found.last - found.first == 2 * SECOND
    assert asked(bbl) == []
    words = bbl(TOPIC, "--plan").stdout
    assert "3 records on vmh.document.update, stored 2026-03-02 09:00:0" in words
    assert f"run by {SERVICE}, step {STEP} ({FUNCTION})" in words
    assert "--yes would send them in this order, 50 a second: about 0 s." in words
    assert first.topic == TOPIC


def test_the_range_goes_by_when_the_broker_stored_a_record(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(10)))
    times = sorted(record.time for record in bbl.shelf.records(TOPIC) if record.time is not None)
    since, until = times[3].isoformat(), times[7].isoformat()
    assert replayed(bbl, "--since", since, "--plan").count == 7
    assert replayed(bbl, "--until", until, "--plan").count == 7
    found = replayed(bbl, "--since", since, "--until", until, "--plan")
    assert (found.count, found.first, found.last) == (4, times[3], times[6])
    empty = bbl(TOPIC, "--since", "2030-01-01", "--yes")
    assert (empty.exit_code, "holds no record" in empty.stdout) == (Exit.OK, True)
    assert bbl(TOPIC, "--since", until, "--until", since, "--plan").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-03-02T08:00", NOW - timedelta(hours=1)),
        ("2026-03-02 08:00:00Z", NOW - timedelta(hours=1)),
        ("2026-03-02T09:00+01:00", NOW - timedelta(hours=1)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("90s", NOW - timedelta(seconds=90)),
        ("30min", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("3 d", NOW - timedelta(days=3)),
    ],
)
def test_an_instant_is_written_as_shown_or_as_how_long_ago(text: str, meant: datetime) -> None:
    assert moment(text, NOW, option="--since") == meant


@pytest.mark.parametrize("text", ["yesterday", "", "3w", "-2h", "2026-13-01", "99999999999d"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"--since .* is no instant"):
        moment(text, NOW, option="--since")


def test_one_key_is_replayed_alone(bbl: Bbl) -> None:
    put(bbl, "d1", "d2", "d1", "d3")
    found = replayed(bbl, "--key", "d1", "--yes")
    assert (found.count, found.sent) == (2, 2)
    assert {request.subject for _, request in asked(bbl)} == {"d1"}


def test_records_that_do_not_fit_are_counted_and_named_and_not_sent(bbl: Bbl) -> None:
    put(bbl, "d1")
    home = codec.partition_of(b"d1")
    bbl.shelf.append(Outgoing(TOPIC, b"d1", b"no JSON", {}, home))
    bbl.shelf.append(Outgoing(TOPIC, b"d1", None, {}, home))
    elsewhere = change("d1").model_dump_json().encode()
    bbl.shelf.append(Outgoing(TOPIC, b"d1", elsewhere, {}, (home + 1) % 12))
    found = replayed(bbl, "--yes")
    assert (found.count, found.unreadable) == (1, 3)
    assert set(found.unreadable_places) == {
        f"{TOPIC}:{home}:1", f"{TOPIC}:{home}:2", f"{TOPIC}:{(home + 1) % 12}:0",
    }  # fmt: skip
    assert len(asked(bbl)) == 1
    assert "3 records cannot be read and are not sent: vmh." in bbl(TOPIC, "--plan").stdout


def test_more_than_fits_in_memory_is_refused(bbl: Bbl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "AT_MOST", 5)
    put(bbl, *(f"d{n}" for n in range(6)))
    answer = bbl(TOPIC, "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert "more than 5 records: narrow it" in answer.stderr
    assert asked(bbl) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vmh.document.updat",), "the nearest is 'vmh.document.update'"),
        (("sync.journal",), "no step of a service that ran here takes sync.journal"),
        ((TOPIC, "--service", "ingest"), f"ingest does not take {TOPIC}; {SERVICE} does"),
    ],
)
def test_a_topic_nobody_takes_is_refused(bbl: Bbl, words: tuple[str, ...], said: str) -> None:
    answer = bbl(*words, "--plan")
    assert answer.exit_code == Exit.USAGE
    assert said in answer.stderr


def test_where_several_services_take_a_topic_one_is_to_be_named(bbl: Bbl) -> None:
    declare(bbl, TOPIC, "steps::Index::trigger::0", service="indexing")
    put(bbl, "d1")
    refused = bbl(TOPIC, "--plan")
    assert refused.exit_code == Exit.USAGE
    assert "several services take" in refused.stderr
    assert replayed(bbl, "--service", "indexing", "--plan").service == "indexing"


def test_a_replay_wants_plan_or_yes_and_verbs_are_no_topics(bbl: Bbl) -> None:
    assert bbl(TOPIC).exit_code == Exit.USAGE
    assert bbl("--plan", TOPIC).exit_code == Exit.OK
    assert bbl("run", TOPIC, "--plan").exit_code == Exit.OK
    assert "no replay in the last month" in bbl("list").stdout
    help_ = bbl("--help").stdout
    assert all(verb in help_ for verb in ("run", "list", "cancel"))


# In order -------------------------------------------------------------------------------------------


def test_the_requests_carry_the_replay_the_origin_and_the_trigger(bbl: Bbl) -> None:
    put(bbl, "d1", "d2")
    found = replayed(bbl, "--by", "night watch", "--yes")
    assert (found.sent, found.stopped) == (2, "")
    for record, request in asked(bbl):
        assert record.headers[codec.REPLAY] == found.replay_id
        assert record.headers[codec.ORIGIN] == request.origin
        assert record.partition == codec.partition_of(request.subject.encode())
        assert (request.function_id, request.topic, request.of) == (FUNCTION, TOPIC, 2)
        assert request.by == "night watch"
    (source,) = [r for r in bbl.shelf.records(TOPIC) if r.key == b"d1"]
    first = asked(bbl)[0][1]
    assert first.origin == f"{TOPIC}:{source.partition}:{source.offset}"
    sent = EntityChanged.model_validate(first.requested)
    assert (sent.entity_id, sent.action, sent.changed) == ("d1", "update", ("n0",))


def test_records_of_all_partitions_are_sent_in_the_order_in_which_they_were_stored(
    bbl: Bbl,
) -> None:
    chance = random.Random(1)
    put(bbl, *(f"d{chance.randrange(20)}" for _ in range(80)))
    replayed(bbl, "--yes")
    order = [EntityChanged.model_validate(r.requested).changed[0] for _, r in asked(bbl)]
    assert order == [f"n{number}" for number in range(80)]
    # and within a partition of the requests the offsets go the same way
    offsets: dict[int, list[int]] = {}
    for record, _ in asked(bbl):
        offsets.setdefault(record.partition, []).append(record.offset)
    assert all(found == sorted(found) for found in offsets.values())


def test_a_clock_of_the_broker_that_went_back_does_not_turn_a_partition_round() -> None:
    value = change("d1").model_dump_json().encode()
    home = codec.partition_of(b"d1")
    records = [
        Record(TOPIC, home, offset, b"d1", value, {}, NOW + seconds * SECOND)
        for offset, seconds in enumerate([10, 11, 3, 12])
    ]
    found = selected(records, Range(TOPIC))
    assert [source.place.rpartition(":")[2] for source in found.sources] == list("0123")


def test_the_trace_of_a_record_goes_on(bbl: Bbl) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    bbl.shelf.put(topics.DOCUMENT_UPDATE, change("d1"), {"traceparent": parent})
    replayed(bbl, "--yes")
    ((record, _),) = asked(bbl)
    assert record.headers["traceparent"].split("-")[1] == "a" * 32


# At a pace ------------------------------------------------------------------------------------------


class Pace:
    """A clock that passes by being slept on, and a log that takes time."""

    def __init__(self, log: MemoryLog, *, append_seconds: float = 0.0) -> None:
        self.seconds = 0.0
        self.log = log
        self.append_seconds = append_seconds
        self.sent: list[tuple[float, int]] = []
        self.stop_after: int | None = None
        self.stopping = asyncio.Event()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        self.seconds += self.append_seconds
        positions = await self.log.append(records)
        self.sent.append((self.seconds, len(records)))
        total = sum(count for _, count in self.sent)
        if self.stop_after is not None and total >= self.stop_after:
            self.stopping.set()
        return positions

    def read(self, starts: Any) -> AsyncIterator[Record]:
        return self.log.read(starts)


async def paced(bbl: Bbl, pace: Pace, rate: float, told: list[Replay] | None = None) -> Replay:
    planned, selection = await plan(bbl.shelf.log, Range(TOPIC), rate=rate)
    heard: list[Replay] = [] if told is None else told
    return await send(
        pace,  # type: ignore[arg-type] # of a log it is what a replay takes
        pace,
        planned,
        selection,
        stopping=pace.stopping,
        progress=heard.append,
    )


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0, 1000.0])
@pytest.mark.parametrize("append_seconds", [0.0, 0.004])
def test_the_rate_is_never_exceeded(bbl: Bbl, rate: float, append_seconds: float) -> None:
    put(bbl, *(f"d{n}" for n in range(60)))
    pace = Pace(bbl.shelf.log, append_seconds=append_seconds)
    result = asyncio.run(paced(bbl, pace, rate))
    assert result.sent == 60
    total = 0
    for at, count in pace.sent:
        # a batch is at most a tenth of a second's
        assert total <= at * rate + 1e-6
        total += count
    assert pace.seconds <= 60 / rate + 60 * append_seconds + 0.3


def test_no_two_requests_of_one_key_are_under_way_at_once(bbl: Bbl) -> None:
    put(bbl, *("d1" if n % 3 else "d2" for n in range(40)))
    batches: list[list[bytes]] = []
    bbl.shelf.log.on_append = lambda records: batches.append([r.key for r in records])
    asyncio.run(paced(bbl, Pace(bbl.shelf.log), 1000.0))
    sent = [batch for batch in batches if batch]
    assert all(len(batch) == len(set(batch)) for batch in sent)
    assert sum(map(len, sent)) == 40


def test_progress_is_told_again_and_again_and_at_the_end(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(50)))
    told: list[Replay] = []
    asyncio.run(paced(bbl, Pace(bbl.shelf.log), 5.0, told))
    assert len(told) >= 4
    assert [one.sent for one in told] == sorted(one.sent for one in told)
    assert told[-1].sent == 50
    assert {one.replay_id for one in told} == {told[0].replay_id}


def test_progress_goes_to_standard_error(bbl: Bbl) -> None:
    put(bbl, "d1", "d2")
    answer = bbl(TOPIC, "--yes", "--json", "--rate", "1000")
    assert json.loads(answer.stdout)["sent"] == 2
    assert "2 of 2 sent" in answer.stderr


# Interrupted ----------------------------------------------------------------------------------------


def test_a_replay_that_is_interrupted_says_where_and_how_to_go_on(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(30)))
    pace = Pace(bbl.shelf.log)
    pace.stop_after = 12
    result = asyncio.run(paced(bbl, pace, 10.0))
    assert (result.sent, result.stopped) == (12, "it was interrupted")
    last = next(request for _, request in asked(bbl) if request.number == 12)
    assert result.reached == last.origin
    assert result.resume is not None
    rest = replayed(bbl, "--since", result.resume.isoformat(), "--plan")
    assert rest.count == 18


def test_an_interruption_after_the_last_request_is_none(bbl: Bbl) -> None:
    put(bbl, "d1", "d2")
    pace = Pace(bbl.shelf.log)
    pace.stop_after = 2
    assert asyncio.run(paced(bbl, pace, 10.0)).stopped == ""


def test_a_kafka_that_goes_away_ends_it_with_what_was_acknowledged(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(30)))
    left = 3

    def fail(_: Sequence[Outgoing]) -> None:
        nonlocal left
        bbl.shelf.log.failing = left <= 0
        left -= 1

    bbl.shelf.log.on_append = fail
    answer = bbl(TOPIC, "--yes", "--rate", "10")
    assert answer.exit_code == Exit.FINDING
    assert "sent 3 of 30" in answer.stdout
    assert "It ended early: Kafka did not acknowledge" in answer.stdout
    assert f"To go on: bbl replay {TOPIC} --since 2026-03-02T09:00:0" in answer.stdout
    assert len(asked(bbl)) == 3


def test_a_sender_whose_replay_is_cancelled_stops(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(100)))

    def cancel_it(records: Sequence[Outgoing]) -> None:
        replay_id = records[0].headers.get(codec.REPLAY)
        if replay_id and len(bbl.shelf.records(REQUESTS)) == 10:
            command = ReplayCancelled(replay_id=replay_id, since=NOW)
            bbl.shelf.log._store(commands.encoded(command, bbl.shelf.clock, source="bbl"))

    bbl.shelf.log.on_append = cancel_it
    result = asyncio.run(paced(bbl, Pace(bbl.shelf.log), 5.0))
    assert result.stopped == "it was cancelled"
    assert 10 < result.sent < 60


# How far it is --------------------------------------------------------------------------------------


def test_the_list_tells_what_was_sent_and_what_runs_made_of_it(bbl: Bbl) -> None:
    put(bbl, "d1", "d2", "d3")
    replay_id = replayed(bbl, "--yes").replay_id
    (working,) = replays(bbl)
    assert (working.replay_id, working.state, working.sent, working.done) == (
        replay_id, "working", 3, 0,
    )  # fmt: skip
    ran(bbl, "d1", "done", began=bbl.shelf.clock.now())
    ran(bbl, "d2", "retry", began=NOW, origin=f"{REQUESTS}:{codec.partition_of(b'd2')}:0")
    ran(bbl, "d3", "done", began=NOW)  # before it was asked for
    (half,) = replays(bbl)
    assert (half.done, half.outcomes, half.state) == (2, {"done": 1, "retry": 1}, "working")
    ran(bbl, "d3", "skipped", began=bbl.shelf.clock.now())
    (done,) = replays(bbl)
    assert (done.done, done.state) == (3, "done")
    words = bbl("list").stdout
    assert "3/3" in words
    assert "1 done, 1 retry, 1 skipped" in words


def test_one_run_answers_every_request_of_its_record_before_it(bbl: Bbl) -> None:
    put(bbl, "d1", "d1", "d1")
    replayed(bbl, "--yes")
    home = codec.partition_of(b"d1")
    ran(bbl, "d1", "done", began=NOW, origin=f"{REQUESTS}:{home}:1")
    (found,) = replays(bbl)
    assert (found.done, found.outcomes) == (2, {"done": 2})


def test_the_last_attempt_of_a_request_tells_its_outcome_and_no_other_run_does(bbl: Bbl) -> None:
    put(bbl, "d1", "d1")
    replayed(bbl, "--yes")
    home, now = codec.partition_of(b"d1"), bbl.shelf.clock.now()
    # the same record's own event, worked on by itself, answers nothing that was asked for
    ran(bbl, "d1", "done", began=now, origin=f"{TOPIC}:{home}:7", answers=1)
    assert replays(bbl)[0].done == 0
    ran(bbl, "d1", "retry", began=now, origin=f"{REQUESTS}:{home}:0")
    ran(bbl, "d1", "done", began=now, origin=f"{REQUESTS}:{home}:0")
    ran(bbl, "d1", "rejected", began=now, origin=f"{REQUESTS}:{home}:1")
    (found,) = replays(bbl)
    assert (found.done, found.outcomes) == (2, {"done": 1, "rejected": 1})


def test_a_replay_that_stands_still_was_stopped(bbl: Bbl) -> None:
    put(bbl, *(f"d{n}" for n in range(9)))
    pace = Pace(bbl.shelf.log)
    pace.stop_after = 4
    result = asyncio.run(paced(bbl, pace, 10.0))
    (sending,) = replays(bbl)
    assert (sending.state, sending.sent, sending.count) == ("sending", 4, 9)
    (stopped,) = replays(bbl, bbl.shelf.clock.now() + QUIET + SECOND)
    assert (stopped.state, stopped.reached) == ("stopped", result.reached)


def test_the_list_keeps_replays_apart_from_each_other_and_from_other_requests(bbl: Bbl) -> None:
    put(bbl, "d1")
    first = replayed(bbl, "--yes").replay_id
    bbl.shelf.clock.move(60)
    by_hand = RunRequested(function_id=FUNCTION, run_id="r", subject="d1", requested={})
    bbl.shelf.put(topics.requests(SERVICE), by_hand)
    second = replayed(bbl, "--yes").replay_id
    found = json.loads(bbl("list", "--json").stdout)["replays"]
    assert [one["replay_id"] for one in found] == [second, first]
    assert {one["sent"] for one in found} == {1}
    ReplayList.model_validate_json(bbl("list", "--json").stdout, strict=True)


# Called off -----------------------------------------------------------------------------------------


def test_a_cancelled_replay_is_a_command_that_every_worker_reads(bbl: Bbl) -> None:
    put(bbl, "d1", "d2")
    replay_id = replayed(bbl, "--yes").replay_id
    ran(bbl, "d1", "done", began=bbl.shelf.clock.now())
    plan_ = Cancellation.model_validate_json(
        bbl("cancel", replay_id, "--plan", "--json").stdout, strict=True
    )
    assert (plan_.skipped, plan_.written) == (1, False)
    assert bbl.shelf.records(topics.COMMANDS.name) == []
    done = bbl("cancel", replay_id, "--by", "night watch", "--yes")
    assert f"Called replay {replay_id} off: {SERVICE} skips 1 request" in done.stdout
    (record,) = bbl.shelf.records(topics.COMMANDS.name)
    assert record.key == f"replay|{replay_id}".encode()
    said = json.loads(record.value or b"")
    assert (said["kind"], said["replay_id"], said["by"]) == (
        "replay_cancelled", replay_id, "night watch",
    )  # fmt: skip
    assert isinstance(commands.parse(record), ReplayCancelled)
    (stand,) = replays(bbl)
    assert (stand.state, stand.cancelled_by) == ("cancelled", "night watch")
    again = bbl("cancel", replay_id, "--yes")
    assert again.exit_code == Exit.REFUSED
    assert "was cancelled already" in again.stderr
    assert "by night watch" in again.stderr


def test_a_replay_that_is_done_or_unknown_cannot_be_cancelled(bbl: Bbl) -> None:
    put(bbl, "d1")
    assert "there is none" in bbl("cancel", "nothing", "--yes").stderr
    replay_id = replayed(bbl, "--yes").replay_id
    unknown = bbl("cancel", replay_id[:-1], "--yes")
    assert unknown.exit_code == Exit.USAGE
    assert f"the nearest is '{replay_id}'" in unknown.stderr
    ran(bbl, "d1", "done", began=bbl.shelf.clock.now())
    done = bbl("cancel", replay_id, "--yes")
    assert done.exit_code == Exit.REFUSED
    assert "is done: runs answered all 1 requests" in done.stderr
    assert bbl.shelf.records(topics.COMMANDS.name) == []
