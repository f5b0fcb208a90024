"""The commands that look into the topics, on a real Kafka."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bitbylaw_cli.chronicle import Story
from bitbylaw_cli.held import HeldList
from bitbylaw_cli.letters import LetterList, Redrive
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_cli.tailing import TailedList
from bitbylaw_cli.topic_plan import TopicPlan
from bitbylaw_cli.waits import WaitingList
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import EntityChanged, Event, Quarantined
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import EffectFact, JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.topics import Topic
from bitbylaw_devstack import Stack
from unit.cli.shelf import SERVICE, STEP, entry, letter

pytestmark = pytest.mark.kafka

COMMAND = (sys.executable, "-c", "from bitbylaw_cli.main import main; main()")
HEEDS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""What a shell starts in the background ignores Ctrl-C, and all that it starts."""

WITHIN_SECONDS = 60
_CLOCK = SystemClock()


class System:
    """A Kafka with the topics of the catalogue, as `bbl` sees it."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.env = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers}

    def bbl(self, *words: str) -> Result:
        """Type `bbl words...`."""
        return CliRunner().invoke(build(), words, env=self.env)

    def append(self, *records: Outgoing) -> None:
        """Store records."""
        asyncio.run(_append(self.env["KAFKA_BOOTSTRAP_SERVERS"], records))

    def put(self, topic: Topic[Any], *events: Event) -> None:
        """Store events as a service would."""
        self.append(*(_encoded(topic, event) for event in events))


async def _append(bootstrap_servers: str, records: Sequence[Outgoing]) -> None:
    async with KafkaLog(
        {"bootstrap_servers": bootstrap_servers}, service="test", acknowledge_seconds=20
    ) as log:
        await log.append(records)


def _encoded(topic: Topic[Any], event: Event) -> Outgoing:
    return codec.encode(topic, event, event_id=new_event_id(), source="test", now=_CLOCK.now())


def _update(entity_id: str) -> EntityChanged:
    return EntityChanged(entity_type="CDokumente", entity_id=entity_id, action="update")


def _kept(topic: str, entity_id: str, value: bytes | None) -> Outgoing:
    key = f"{STEP}|document|{entity_id}".encode()
    return Outgoing(f"{SERVICE}.{topic}", key, value, {}, codec.partition_of(entity_id.encode()))


def _ran(entity_id: str, outcome: str, **given: Any) -> Outgoing:
    began = _CLOCK.now()
    run = JournalEntry(
        phase="end",
        service=SERVICE,
        step=STEP,
        entity="document",
        entity_id=entity_id,
        run_id=given.pop("run_id", f"run-{entity_id}"),
        event_id="e",
        began=began,
        ended=began + timedelta(milliseconds=40),
        outcome=outcome,
        **given,
    )
    value = run.model_dump_json().encode()
    number = codec.partition_of(entity_id.encode())
    return Outgoing(topics.JOURNAL.name, run.key, value, {}, number)


@pytest.fixture(scope="module")
def system(stack: Stack) -> System:
    """Give a Kafka whose topics `bbl topics apply` made."""
    system = System(stack.kafka.bootstrap_servers)
    before = system.bbl("topics", "plan", "--json")
    assert before.exit_code == Exit.FINDING
    missing = TopicPlan.model_validate_json(before.stdout).changes
    assert {change.kind for change in missing} == {"create"}
    assert len(missing) == len(list(topics.catalogue()))
    assert system.bbl("topics", "apply", "--yes").exit_code == Exit.OK
    return system


def test_topics_that_were_applied_are_as_declared(system: System) -> None:
    answer = system.bbl("topics", "plan")
    assert (answer.exit_code, "as declared" in answer.stdout) == (Exit.OK, True)
    again = TopicPlan.model_validate_json(system.bbl("topics", "apply", "--yes", "--json").stdout)
    assert (again.changes, again.written) == ((), True)


def test_tail_shows_records_with_headers_and_moves_nobody(system: System) -> None:
    system.put(topics.DOCUMENT_CREATE, *(_update(f"t{number}") for number in range(15)))
    answer = system.bbl("tail", topics.DOCUMENT_CREATE.name, "--count", "4", "--json")
    found = TailedList.model_validate_json(answer.stdout).records
    assert len(found) == 4
    assert found[-1].headers["ce_type"] == EntityChanged.type
    everything = system.bbl(
        "tail", topics.DOCUMENT_CREATE.name, "--from", "beginning", "-n", "100", "--json"
    )
    keys = [one.key for one in TailedList.model_validate_json(everything.stdout).records]
    assert sorted(keys, key=str) == sorted(f"t{number}" for number in range(15))


def _following(system: System, *words: str) -> "subprocess.Popen[str]":
    command = (sys.executable, "-c", f"{HEEDS_CTRL_C}; from bitbylaw_cli.main import main; main()")
    return subprocess.Popen(  # noqa: S603 - the command under test
        [*command, "tail", topics.DOCUMENT_DELETE.name, "--follow", "--json", *words],
        env=dict(os.environ) | system.env,  # noqa: TID251 - the child needs the machine's
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(child: "subprocess.Popen[str]", meanwhile: Callable[[], None]) -> str:
    """Return what the child printed; `meanwhile` is called until it ended, which is bounded."""
    done = threading.Event()
    timer = threading.Timer(WITHIN_SECONDS, child.kill)
    timer.start()

    def repeat() -> None:
        while not done.wait(0.3):
            meanwhile()

    other = threading.Thread(target=repeat)
    other.start()
    try:
        printed, complaints = child.communicate()
    finally:
        done.set()
        other.join()
        timer.cancel()
    assert child.returncode == 0, complaints
    return printed


def test_following_prints_a_line_for_each_new_record_and_ends_after_count(system: System) -> None:
    system.put(topics.DOCUMENT_DELETE, _update("before"))
    child = _following(system, "--count", "2")
    lines = _ended(child, lambda: system.put(topics.DOCUMENT_DELETE, _update("after")))
    assert [json.loads(line)["key"] for line in lines.splitlines()] == ["after", "after"]


def test_following_ends_well_with_ctrl_c(system: System) -> None:
    system.put(topics.DOCUMENT_DELETE, _update("first"))
    child = _following(system, "--from", "beginning", "--key", "first")
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["key"] == "first"
    child.send_signal(signal.SIGINT)
    assert _ended(child, lambda: None) == ""


def test_waiting_folds_the_schedule(system: System) -> None:
    system.append(
        _kept("schedule", "w1", entry("w1", attempt=1).to_bytes()),
        _kept("schedule", "w2", entry("w2").to_bytes()),
        _kept("schedule", "w1", entry("w1", attempt=3).to_bytes()),
        _kept("schedule", "w2", None),
    )
    answer = system.bbl("waiting", SERVICE, "--json")
    found = WaitingList.model_validate_json(answer.stdout).entries
    assert [(one.entity_id, one.attempt) for one in found] == [("w1", 3)]
    assert system.bbl("why", "document", "w1").exit_code == Exit.FINDING


def test_a_document_s_story_is_told_from_its_partition(system: System) -> None:
    system.put(topics.DOCUMENT_UPDATE, _update("s1"), _update("s2"))
    upload = EffectFact(system="xai", method="upload_file", target="s1", fields={"bytes": "7"})
    system.append(
        _ran("s1", "done", summary="1 uploaded", rule="row 2", reason="new", effects=(upload,))
    )
    told = Story.model_validate_json(system.bbl("why", "document", "s1", "--json").stdout)
    assert (told.state, [moment.kind for moment in told.moments]) == (
        "in line",
        ["received", "run"],
    )
    assert told.moments[1].details[1] == "xai upload_file s1 bytes=7"
    assert system.bbl("why", "document", "s2").stdout.startswith("Received ")
    assert system.bbl("why", "document", "s3").stdout.startswith("Never seen")


def test_a_dead_letter_is_listed_told_redriven_and_resolved(system: System) -> None:
    run = letter("x1", died=_CLOCK.now())
    system.append(
        _ran("x1", "rejected", summary=run.reason, run_id=run.run_id),
        _kept("dlq", "x1", run.to_bytes()),
    )
    listed = LetterList.model_validate_json(system.bbl("dlq", "list", SERVICE, "--json").stdout)
    assert [(group.count, group.examples) for group in listed.groups] == [(1, ("x1",))]
    dead = system.bbl("why", "document", "x1")
    assert dead.exit_code == Exit.FINDING
    place = f"{SERVICE}.dlq:{codec.partition_of(b'x1')}:0"
    assert f"`bbl dlq redrive {SERVICE} {place} --yes`" in dead.stdout
    asked = Redrive.model_validate_json(
        system.bbl("dlq", "redrive", SERVICE, place, "--yes", "--json").stdout
    )
    assert (asked.written, asked.entity_id) == (True, "x1")
    requests = system.bbl("tail", f"{SERVICE}.requests", "--key", "x1", "--json")
    assert len(TailedList.model_validate_json(requests.stdout).records) == 1
    system.append(_ran("x1", "done", summary="1 uploaded", run_id="again"))
    left = system.bbl("dlq", "list", SERVICE, "--open", "--json")
    assert LetterList.model_validate_json(left.stdout).resolved == 1
    assert system.bbl("why", "document", "x1").exit_code == Exit.OK


def test_a_large_quarantined_body_is_released_and_its_events_arrive(system: System) -> None:
    padding = b" " * (3 * 1024 * 1024)  # larger than any other topic takes
    raw = b'[{"id":"q-doc-1"},' + padding + b'{"id":"q-doc-2"}]'
    held = Quarantined(
        quarantine_id="q1",
        route="/vmh/webhook/document/update",
        webhook_id="",
        reason="the body has too many items",
        raw=base64.b64encode(raw).decode(),
    )
    system.put(topics.QUARANTINE, held)
    listed = HeldList.model_validate_json(system.bbl("quarantine", "list", "--json").stdout)
    assert [(one.quarantine_id, one.raw_bytes) for one in listed.entries] == [("q1", len(raw))]
    released = system.bbl("quarantine", "release", "q1", "--yes")
    assert released.exit_code == Exit.OK, released.stderr
    assert "Nothing waits" in system.bbl("quarantine", "list").stdout
    assert system.bbl("quarantine", "drop", "q1", "--yes").exit_code == Exit.REFUSED
    for name in ("q-doc-1", "q-doc-2"):
        told = Story.model_validate_json(system.bbl("why", "document", name, "--json").stdout)
        assert [moment.words for moment in told.moments] == ["an operator: update"]


def test_a_kafka_that_is_not_there_is_one_line_and_its_own_exit_code() -> None:
    answer = subprocess.run(  # noqa: S603 - the command under test
        [*COMMAND, "why", "document", "d1"],
        env=dict(os.environ) | System("127.0.0.1:1").env,  # noqa: TID251 - as above
        capture_output=True,
        text=True,
        timeout=WITHIN_SECONDS,
        check=False,
    )
    assert answer.returncode == Exit.UNREACHABLE
    assert (answer.stdout, answer.stderr.count("\n")) == ("", 1)
    assert "127.0.0.1:1" in answer.stderr
