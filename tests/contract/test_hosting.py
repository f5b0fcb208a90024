"""Apps hosted in one process on a real Kafka: control, crons, missing topics, an outage."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp
import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import LogUnavailableError, SettingsError
from bitbylaw_common.events import Event
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import BYTES_WAITING, KafkaLog
from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import (
    ApiRequest,
    ApiResponse,
    App,
    Context,
    Tick,
    cron,
    http,
    step,
)
from bitbylaw_common.runtime.hosting import Hosting, hosting, topics_of
from bitbylaw_common.runtime.ports import Outgoing, Record
from bitbylaw_common.topics import Topic
from bitbylaw_devstack import Stack

pytestmark = pytest.mark.kafka

MIB = 1024 * 1024
UNTIL_SECONDS = 60.0
CRON = "steps::Yearly::trigger::0"


class Parcel(Event):
    """Something large that was posted."""

    type: ClassVar[str] = "post.parcel"
    parcel: str
    content: str = ""

    @property
    def key(self) -> str:
        return self.parcel

    @property
    def entity(self) -> str:
        return "parcel"


PARCELS = Topic("post.parcel.posted", Parcel, "post", "what was posted", max_message_bytes=4 * MIB)


@dataclass
class Noted:
    """What the steps did."""

    ticks: list[Tick] = field(default_factory=list)


@step(
    name="Post",
    description="Stores what is posted",
    flows=["post"],
    triggers=[http("POST", "/parcels/{parcel}", max_body_bytes=2 * MIB)],
    enqueues=[PARCELS],
)
async def post(request: ApiRequest[bytes], ctx: Context[Noted]) -> ApiResponse:
    parcel = Parcel(parcel=request.path_params["parcel"], content=request.body.decode())
    return ApiResponse(200, {"event_id": await ctx.enqueue(PARCELS, parcel)})


@step(
    name="Yearly",
    description="Notes its ticks; nobody waits for the next one",
    flows=["post"],
    triggers=[cron("0 0 0 1 1 *")],
)
async def yearly(tick: Tick, ctx: Context[Noted]) -> Outcome:
    ctx.deps.ticks.append(tick)
    return Done("noted")


def apps(noted: Noted) -> tuple[App[Noted], App[Noted]]:
    """Return an app of routes and an app that consumes, as two services are."""

    @asynccontextmanager
    async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Noted]:
        yield noted

    return App("front", [post], open_deps), App("post", [yearly], open_deps)


TOPICS = {t.name: t for app in apps(Noted()) for t in topics_of(app)}


def environment(stack: Stack) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka.bootstrap_servers,
        "REDIS_URL": stack.redis.url,
        "HTTP_PORT": "0",
        "BBL_DRAIN_SECONDS": "3",
    }


async def until(condition: Callable[[], bool], seconds: float = UNTIL_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is looked at rings no bell
            await asyncio.sleep(0.02)


async def stored(stack: Stack) -> list[Record]:
    """Return every parcel that Kafka holds."""
    connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
    starts = {(PARCELS.name, number): 0 for number in range(topics.PARTITIONS)}
    async with asyncio.timeout(UNTIL_SECONDS), KafkaLog(connect, service="test") as log:
        return [record async for record in log.read(starts)]


@dataclass
class Site:
    """A hosted process as its callers see it."""

    process: Hosting
    session: aiohttp.ClientSession
    noted: Noted

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"{self.process.url}{path}") as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()

    async def post(self, path: str, **how: Any) -> tuple[int, Any]:
        async with self.session.post(f"{self.process.url}{path}", **how) as answer:
            return answer.status, await answer.json()

    async def trigger(self, function_id: str) -> tuple[int, Any]:
        return await self.post("/_console/cron/trigger", json={"function_id": function_id})

    async def parcel(self, name: str, content: bytes = b"x") -> tuple[int, Any]:
        return await self.post(f"/parcels/{name}", data=content)


@asynccontextmanager
async def hosted(stack: Stack) -> AsyncIterator[Site]:
    noted = Noted()
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        hosting(apps(noted), environment(stack)) as process,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        yield Site(process, session, noted)


@pytest.fixture
async def site(stack: Stack) -> AsyncIterator[Site]:
    """The two apps, their topics made, every consumer at work."""
    await make(stack, TOPICS.values())
    async with hosted(stack) as site:
        await until(lambda: not site.process.ready())
        yield site


async def make(stack: Stack, wanted: Iterable[Topic[Any]]) -> None:
    connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
    async with asyncio.timeout(UNTIL_SECONDS), admin(connect) as kafka:
        await kafka.apply(wanted)


# This one comes first: the others make the topics.
async def test_missing_topics_end_the_process_with_the_command_that_makes_them(
    stack: Stack,
) -> None:
    async with hosted(stack) as site:
        # the port answers from the first moment all the same
        assert (await site.get("/healthz"))[0] in (200, 503)
        async with asyncio.timeout(UNTIL_SECONDS):
            await site.process.broken.wait()
        failure = site.process.failure
        status, answer = await site.get("/healthz")

    assert isinstance(failure, SettingsError)
    assert f"lacks {len(TOPICS)} topics, the first is control.commands" in str(failure)
    assert "bbl topics apply" in str(failure)
    assert (status, answer["reasons"]) == (503, ["a consumer ended: SettingsError"])


async def test_a_process_at_work_is_alive_and_ready_and_shows_its_metrics(site: Site) -> None:
    assert await site.get("/healthz") == (200, {"status": "ok"})
    assert await site.get("/readyz") == (200, {"status": "ready"})
    status, page = await site.get("/metrics")
    assert status == 200
    assert 'bitbylaw_build_info{python="' in page
    for service in ("front", "post"):
        assert f'service="{service}"' in page


async def test_a_process_that_has_not_joined_yet_is_alive_but_not_ready(stack: Stack) -> None:
    await make(stack, TOPICS.values())
    async with hosted(stack) as site:
        # nothing was awaited on Kafka since it was entered
        assert site.process.ready() == ["post has not joined its group yet"]
        assert (await site.get("/healthz"))[0] == 200
        await until(lambda: not site.process.ready())
        assert (await site.get("/readyz"))[0] == 200


async def test_the_functions_are_those_declared_with_how_they_went(site: Site) -> None:
    await site.parcel("first")
    status, answer = await site.get("/_console/functions")
    found = {one["function_id"]: one for one in answer["functions"]}

    assert status == 200
    assert list(found) == ["steps::Post::trigger::0", CRON]
    posts, years = found.values()
    assert posts["trigger"] == {
        "type": "http",
        "config": {"method": "POST", "path": "/parcels/{parcel}"},
    }
    assert (posts["service"], posts["enqueues"]) == ("front", [PARCELS.name])
    assert posts["last_success"] is not None
    assert years["trigger"] == {"type": "cron", "config": {"expression": "0 0 0 1 1 *"}}
    assert years["last_failure"] is None


async def test_a_cron_that_is_asked_for_runs_once_under_the_id_that_was_answered(
    site: Site,
) -> None:
    status, answer = await site.trigger(CRON)
    assert (status, answer["function_id"]) == (202, CRON)

    await until(lambda: len(site.noted.ticks) == 1)
    (tick,) = site.noted.ticks
    assert (tick.manual, tick.run_id) == (True, answer["run_id"])

    # what was asked for next runs behind it: a second run of the first would show before
    second = (await site.trigger(CRON))[1]["run_id"]
    await until(lambda: site.noted.ticks[-1].run_id == second)
    assert [tick.run_id for tick in site.noted.ticks] == [answer["run_id"], second]


async def test_the_runs_of_a_process_before_are_not_made_again(site: Site, stack: Stack) -> None:
    run_id = (await site.trigger(CRON))[1]["run_id"]
    await until(lambda: [tick.run_id for tick in site.noted.ticks] == [run_id])


@pytest.mark.parametrize(
    "asked", ["steps::Yearly::trigger::1", "steps::yearly::trigger::0", "Yearly", "x"]
)
async def test_an_unknown_cron_is_answered_with_the_nearest_ids(site: Site, asked: str) -> None:
    status, answer = await site.trigger(asked)
    assert (status, answer["nearest"]) == (404, [CRON])
    assert site.noted.ticks == []


async def test_in_an_outage_posts_are_answered_503_in_time_and_none_answered_200_is_lost(
    site: Site, stack: Stack
) -> None:
    loop = asyncio.get_running_loop()
    answered: dict[str, int] = {}
    slowest = 0.0

    async def send(name: str) -> None:
        nonlocal slowest
        began = loop.time()
        status, answer = await site.parcel(name)
        slowest = max(slowest, loop.time() - began)
        answered[answer["event_id"] if status == 200 else name] = status

    async def keep_sending() -> None:
        number = 0
        while True:
            await asyncio.gather(*(send(f"outage-{number}-{n}") for n in range(5)))
            number += 1

    sending = asyncio.create_task(keep_sending())
    try:
        await until(lambda: len(answered) >= 50)
        usual, slowest = slowest, 0.0
        await stack.kafka.stop()
        await until(lambda: 503 in answered.values())
        assert (await site.get("/healthz"))[0] == 200
        assert not site.process.broken.is_set()
    finally:
        await stack.kafka.start()
    try:
        before = len(answered)
        await until(lambda: list(answered.values())[before:].count(200) >= 50)
    finally:
        sending.cancel()
        await asyncio.wait({sending}, timeout=60)

    assert set(answered.values()) == {200, 503}
    assert slowest < 5.0 + usual, "this machine takes its usual time on top"
    kept = {record.headers["ce_id"] for record in await stored(stack)}
    assert {event_id for event_id, status in answered.items() if status == 200} <= kept


@pytest.mark.slow
async def test_after_an_outage_that_outlasts_every_time_out_posts_are_stored_again(
    site: Site, stack: Stack
) -> None:
    await stack.kafka.stop()
    try:
        # each answer takes the log's whole patience: together longer than any of Kafka's time-outs
        for number in range(4):
            assert (await site.parcel(f"given-up-{number}"))[0] == 503
    finally:
        await stack.kafka.start()

    async with asyncio.timeout(UNTIL_SECONDS):
        while (await site.parcel("afterwards"))[0] != 200:
            assert not site.process.broken.is_set()
    # and nothing waits for ever: what was given up is stored late, or not at all
    await until(lambda: metrics.value("bitbylaw_kafka_waiting_bytes") == 0)
    run_id = (await site.trigger(CRON))[1]["run_id"]
    await until(lambda: [tick.run_id for tick in site.noted.ticks] == [run_id])


async def test_large_posts_in_an_outage_wait_in_at_most_64_mib_and_the_rest_is_refused(
    site: Site, stack: Stack
) -> None:
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, metrics.value("bitbylaw_kafka_waiting_bytes"))
            await asyncio.sleep(0)

    body = b"x" * MIB
    await stack.kafka.stop()
    watching = asyncio.create_task(watch())
    try:
        answers = await asyncio.gather(*(site.parcel(f"large-{n}", body) for n in range(200)))
    finally:
        watching.cancel()
        await asyncio.wait({watching}, timeout=5)
        await stack.kafka.start()

    assert {status for status, _ in answers} == {503}
    assert MIB < most <= BYTES_WAITING
    await until(lambda: metrics.value("bitbylaw_kafka_waiting_bytes") == 0)
    async with asyncio.timeout(UNTIL_SECONDS):
        while (await site.parcel("afterwards"))[0] != 200:
            assert not site.process.broken.is_set()


async def test_appending_nothing_is_done_at_once(stack: Stack) -> None:
    # so it is whenever no function of a process changed since it published them last
    connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
    async with KafkaLog(connect, service="test") as log:
        assert await log.append([]) == []
        await log.connected(UNTIL_SECONDS)
        assert await log.append([]) == []


async def test_appends_that_come_at_the_same_moment_keep_to_the_limit_too(stack: Stack) -> None:
    await make(stack, TOPICS.values())
    connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
    records = [
        Outgoing(PARCELS.name, f"burst-{number}".encode(), b"x" * MIB) for number in range(200)
    ]
    most = 0

    async with KafkaLog(connect, service="test", acknowledge_seconds=2.0) as log:
        await log.connected(UNTIL_SECONDS)
        await stack.kafka.stop()
        try:
            appends = [asyncio.create_task(log.append([record])) for record in records]
            while not all(append.done() for append in appends):
                most = max(most, log.bytes_waiting)
                await asyncio.wait(appends, timeout=0.01)
        finally:
            await stack.kafka.start()
        assert MIB < most <= BYTES_WAITING
        refused = [append.exception() for append in appends]
        assert {type(one) for one in refused} == {LogUnavailableError}
        assert sum("wait for Kafka already" in str(one) for one in refused) >= 200 - 64
