"""Replay, redrive and crons through `bbl`, with a service at work on a real Kafka."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from typer.testing import CliRunner, Result

from bitbylaw_cli.crons import CronHistory, CronStandList, Triggered
from bitbylaw_cli.letters import IssueList, RedriveList
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_cli.replaying import Replay, ReplayList, ReplayStand
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.outcomes import Done, Outcome, Rejected
from bitbylaw_common.runtime import App, Context, Tick, cron, queue, step
from bitbylaw_common.runtime.hosting import Hosting, hosting
from bitbylaw_common.runtime.ports import Record
from bitbylaw_devstack import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

SERVICE = "document-sync"
TOPIC = topics.DOCUMENT_UPDATE
CRON = "steps::Document Sweep::trigger::0"
WITHIN_SECONDS = 60.0
COMMAND = (sys.executable, "-c", "from bitbylaw_cli.main import main; main()")
_CLOCK = SystemClock()


@dataclass
class Seen:
    """What the handlers were called with."""

    runs: list[tuple[str, str]] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    blocked: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@step(
    name="Document Sync",
    description="Notes each event",
    flows=["test"],
    triggers=[queue(topics.DOCUMENT_CREATE), queue(TOPIC)],
)
async def noted(event: EntityChanged, ctx: Context[Seen]) -> Outcome:
    ctx.deps.runs.append((event.entity_id, event.changed[0] if event.changed else ""))
    if event.entity_id == ctx.deps.blocked:
        await ctx.deps.gate.wait()
    if event.entity_id in ctx.deps.refused:
        return Rejected("it is refused", error="Invalid")
    return Done("noted")


@step(
    name="Document Sweep",
    description="Notes its ticks; nobody waits for the next one",
    flows=["test"],
    triggers=[cron("0 0 0 1 1 *")],
)
async def swept(tick: Tick, ctx: Context[Seen]) -> Outcome:
    ctx.deps.ticks.append(tick)
    return Done("swept")


@dataclass
class Site:
    """A service at work, and `bbl` beside it."""

    bootstrap_servers: str
    seen: Seen = field(default_factory=Seen)
    process: Hosting | None = None

    def heard_off(self, replay_id: str) -> bool:
        """Say whether the service knows that the replay was cancelled."""
        gates = self.process.hosted[0].gates if self.process is not None else None
        return gates is not None and gates.cancelled(replay_id)

    @property
    def env(self) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers}

    async def bbl(self, *words: str) -> Result:
        """Type `bbl words...`, in a thread, because it runs a loop of its own."""
        return await asyncio.to_thread(CliRunner().invoke, build(), words, env=self.env)

    async def put(self, *changes: EntityChanged) -> None:
        async with KafkaLog(self.env_options, service="test") as log:
            for change in changes:
                event_id = new_event_id()
                now = _CLOCK.now()
                await log.append(
                    [codec.encode(TOPIC, change, event_id=event_id, source="test", now=now)]
                )

    @property
    def env_options(self) -> dict[str, str]:
        return {"bootstrap_servers": self.bootstrap_servers}

    async def stored(self, topic: str) -> list[Record]:
        starts = {(topic, number): 0 for number in range(topics.PARTITIONS)}
        async with KafkaLog(self.env_options, service="test") as log:
            return [record async for record in log.read(starts)]

    async def group(self) -> tuple[list[str], dict[tuple[str, int], int]]:
        """Return all groups, and the service's commits of the replayed topic."""
        client = AIOKafkaAdminClient(**self.env_options)
        await client.start()
        try:
            groups = sorted(name for name, *_ in await client.list_consumer_groups())
            found = await client.list_consumer_group_offsets(SERVICE)
        finally:
            await client.close()
        return groups, {
            (place.topic, place.partition): committed.offset
            for place, committed in found.items()
            if place.topic == TOPIC.name
        }


def change(entity_id: str, number: int = 0) -> EntityChanged:
    return EntityChanged(
        entity_type="CDokumente", entity_id=entity_id, action="update", changed=(f"n{number}",)
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is looked at rings no bell
            await asyncio.sleep(0.05)


@pytest.fixture
async def site(stack: Stack) -> AsyncIterator[Site]:
    """Start the service on the topics of the catalogue."""
    site = Site(stack.kafka.bootstrap_servers)
    applied = await site.bbl("topics", "apply", "--yes")
    assert applied.exit_code == Exit.OK, applied.stderr

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Seen]:
        yield site.seen

    env = site.env | {
        "REDIS_URL": stack.redis.url,
        "HTTP_PORT": "0",
        "BBL_DRAIN_SECONDS": "3",
    }
    async with hosting([App(SERVICE, [noted, swept], open_deps)], env) as process:
        site.process = process
        await until(lambda: not process.ready())
        await eventually(lambda: _holds(site, topics.FUNCTIONS.name, 3))
        yield site


async def _holds(site: Site, topic: str, count: int) -> bool:
    return len(await site.stored(topic)) >= count


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not await holds():  # noqa: ASYNC110 - Kafka tells only who asks
            await asyncio.sleep(0.1)


async def _replays(site: Site) -> list[ReplayStand]:
    answer = await site.bbl("replay", "list", "--json")
    return list(ReplayList.model_validate_json(answer.stdout, strict=True).replays)


async def _answered(site: Site, replay_id: str, count: int) -> ReplayStand:
    """Wait until the journal tells of `count` runs of the replay, and return its stand."""

    async def stand() -> ReplayStand:
        return next(one for one in await _replays(site) if one.replay_id == replay_id)

    async def all_told() -> bool:
        return (await stand()).done == count

    await eventually(all_told)
    return await stand()


async def _sending(site: Site) -> bool:
    return any(one.state == "sending" for one in await _replays(site))


async def test_a_replay_reaches_the_one_service_in_order_and_moves_no_offset(site: Site) -> None:
    changes = [change(f"r{n % 7}", n) for n in range(60)]
    await site.put(*changes)
    await until(lambda: len(site.seen.runs) == 60)
    before = await site.group()
    async with asyncio.timeout(WITHIN_SECONDS):
        while sum(before[1].values()) < 60:  # the commits of what ran
            before = await site.group()
    site.seen.runs.clear()

    plan = await site.bbl("replay", TOPIC.name, "--since", "1h", "--plan", "--json")
    assert Replay.model_validate_json(plan.stdout, strict=True).count == 60
    answer = await site.bbl("replay", TOPIC.name, "--rate", "500", "--yes", "--json")
    sent = Replay.model_validate_json(answer.stdout, strict=True)
    assert (sent.sent, sent.stopped) == (60, "")
    await until(lambda: len(site.seen.runs) == 60)
    assert site.seen.runs.count(("r3", "n3")) == 1
    for name in {change.entity_id for change in changes}:
        wanted = [(c.entity_id, c.changed[0]) for c in changes if c.entity_id == name]
        assert [run for run in site.seen.runs if run[0] == name] == wanted
    assert await site.group() == before

    # a run is told of after it ended
    stand = await _answered(site, sent.replay_id, 60)
    assert (stand.sent, stand.done, stand.state) == (60, 60, "done")
    assert stand.outcomes == {"done": 60}


async def test_since_goes_by_the_broker_s_clock_whatever_stamp_a_record_brings(
    site: Site,
) -> None:
    producer = AIOKafkaProducer(**site.env_options)
    await producer.start()
    years_ago = _CLOCK.now() - timedelta(days=900)
    value = change("stamped").model_dump_json().encode()
    try:
        await producer.send_and_wait(
            TOPIC.name,
            value,
            key=b"stamped",
            partition=codec.partition_of(b"stamped"),
            timestamp_ms=int(years_ago.timestamp() * 1000),
            headers=[("ce_time", years_ago.isoformat().encode())],
        )
    finally:
        await producer.stop()
    answer = await site.bbl(
        "replay", TOPIC.name, "--since", "10min", "--key", "stamped", "--plan", "--json"
    )
    found = Replay.model_validate_json(answer.stdout, strict=True)
    assert found.count == 1
    assert found.first is not None
    assert _CLOCK.now() - found.first < timedelta(minutes=10)


async def test_ctrl_c_stops_between_two_requests_and_says_where(site: Site) -> None:
    await site.put(*(change(f"c{n}", n) for n in range(40)))
    child = subprocess.Popen(  # noqa: S603, ASYNC220 - the command under test
        [*COMMAND, "replay", TOPIC.name, "--rate", "4", "--yes", "--json"],
        env=dict(os.environ) | site.env,  # noqa: TID251 - the child needs the machine's
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await eventually(lambda: _sending(site))
        child.send_signal(signal.SIGINT)
        printed, told = await asyncio.to_thread(child.communicate, timeout=WITHIN_SECONDS)
    finally:
        child.kill()
    assert child.returncode == 130, told
    found = Replay.model_validate_json(printed, strict=True)
    assert found.stopped == "it was interrupted"
    assert 0 < found.sent < found.count
    assert f"{found.sent} of {found.count} sent" in told
    requests = [
        record
        for record in await site.stored(topics.requests(SERVICE).name)
        if record.headers.get(codec.REPLAY) == found.replay_id
    ]
    assert len(requests) == found.sent
    assert found.reached in {record.headers[codec.ORIGIN] for record in requests}

    # and what is left of it can be called off
    off = await site.bbl("replay", "cancel", found.replay_id, "--yes")
    if off.exit_code == Exit.OK:
        stand = next(one for one in await _replays(site) if one.replay_id == found.replay_id)
        assert stand.state == "cancelled"
    else:  # the service was faster
        assert off.exit_code == Exit.REFUSED
        assert "is done" in off.stderr


async def test_what_a_cancelled_replay_asked_for_is_skipped(site: Site) -> None:
    await site.put(*(change("k1", n) for n in range(8)))
    await until(lambda: len(site.seen.runs) == 8)
    site.seen.runs.clear()
    site.seen.blocked = "k1"
    sent = await site.bbl("replay", TOPIC.name, "--key", "k1", "--rate", "500", "--yes", "--json")
    replay_id = Replay.model_validate_json(sent.stdout, strict=True).replay_id
    await until(lambda: site.seen.runs == [("k1", "n0")])

    off = await site.bbl("replay", "cancel", replay_id, "--yes")
    assert off.exit_code == Exit.OK, off.stderr
    await until(lambda: site.heard_off(replay_id))
    site.seen.gate.set()
    stand = await _answered(site, replay_id, 8)
    assert (stand.state, stand.outcomes) == ("cancelled", {"done": 1, "skipped": 7})
    assert [run for run in site.seen.runs if run[0] == "k1"] == [("k1", "n0")]


async def test_dead_letters_are_an_issue_until_a_redrive_mends_them(site: Site) -> None:
    site.seen.refused = {"x1", "x2"}
    await site.put(change("x1", 1), change("x2", 2), change("x1", 3))
    await eventually(lambda: _holds(site, topics.dlq(SERVICE).name, 3))
    listed = await site.bbl("dlq", "issues", SERVICE, "--json")
    (issue,) = IssueList.model_validate_json(listed.stdout, strict=True).issues
    assert (listed.exit_code, issue.count, issue.open) == (Exit.FINDING, 3, 3)

    site.seen.refused = set()
    site.seen.runs.clear()
    done = await site.bbl("dlq", "redrive", SERVICE, "--issue", "refused", "--yes", "--json")
    asked = RedriveList.model_validate_json(done.stdout, strict=True).redrives
    assert sorted(one.entity_id for one in asked) == ["x1", "x1", "x2"]
    assert {one.function_id for one in asked} == {"steps::Document Sync::trigger::1"}
    await until(lambda: len(site.seen.runs) == 3)
    assert [run for run in site.seen.runs if run[0] == "x1"] == [("x1", "n1"), ("x1", "n3")]

    async def settled() -> bool:
        return (await site.bbl("dlq", "issues", SERVICE)).exit_code == Exit.OK

    await eventually(settled)
    again = await site.bbl("dlq", "redrive", SERVICE, asked[0].letter, "--yes")
    assert again.exit_code == Exit.REFUSED
    assert "by operator" in again.stderr


async def test_a_cron_is_listed_run_by_hand_and_found_in_its_history(site: Site) -> None:
    async def on_time() -> bool:
        return (await site.bbl("cron", "list")).exit_code == Exit.OK

    # its instant is read a moment after the owner wrote it
    await eventually(on_time)
    listed = await site.bbl("cron", "list", "--json")
    (stand,) = CronStandList.model_validate_json(listed.stdout, strict=True).crons
    assert (listed.exit_code, stand.state, stand.function_id) == (Exit.OK, "on time", CRON)
    year = datetime.now(UTC).year + 1  # noqa: TID251 - the cron goes by the machine's clock, too
    assert stand.next == datetime(year - 1, 12, 31, 23, tzinfo=UTC)

    asked = await site.bbl("cron", "trigger", "Document Sweep", "--yes", "--json")
    run_id = Triggered.model_validate_json(asked.stdout, strict=True).run_id
    await until(lambda: [tick.run_id for tick in site.seen.ticks] == [run_id])

    async def history() -> CronHistory:
        answer = await site.bbl("cron", "history", CRON, "--json")
        return CronHistory.model_validate_json(answer.stdout, strict=True)

    async def has_run() -> bool:
        return bool((await history()).runs)

    await eventually(has_run)
    (run,) = (await history()).runs
    assert (run.run_id, run.manual, run.outcome) == (run_id, True, "done")
    # the pending tick stays where it was
    assert (await history()).stand.next == stand.next
