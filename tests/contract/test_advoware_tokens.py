"""One token for all processes, over a real Redis and a firm that counts the logins."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bitbylaw_common import metrics
from bitbylaw_common.clients import advoware_auth
from bitbylaw_common.clients.advoware import Advoware, open_advoware
from bitbylaw_common.clients.advoware_auth import Login, RedisTokens
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import HeldBack, Unauthorized
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.settings import AdvowareSettings, RedisSettings
from bitbylaw_devstack import Stack
from bitbylaw_simulators.advoware import Advoware as SimulatedAdvoware
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer
from log_lines import captured

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

PROCESS = """
import asyncio, json, sys
from bitbylaw_common.clients.advoware import open_advoware
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.settings import AdvowareSettings, RedisSettings

async def main(env, calls, rounds, pause):
    clock, statuses = SystemClock(), []
    settings, redis = AdvowareSettings.from_env(env), RedisSettings.from_env(env)
    async with (
        aiohttp_transport(clock=clock, per_system_limits={}) as transport,
        open_advoware(settings, redis, transport, clock) as client,
    ):
        async def get():
            async with client.call("GET", "employees") as answer:
                await answer.read()
                return answer.status

        for _ in range(rounds):
            statuses += await asyncio.gather(*(get() for _ in range(calls)))
            await asyncio.sleep(pause)
    print(json.dumps(statuses), flush=True)

print("ready", flush=True)
for line in sys.stdin:
    asyncio.run(main(*json.loads(line)))
"""
"""At each line the client of a new process: rounds of calls in parallel, and every status told."""

KEYS = (
    RedisTokens.TOKEN,
    RedisTokens.SINCE,
    RedisTokens.CREDENTIALS,
    RedisTokens.REFUSED,
    RedisTokens.LOCK,
)


class Office:
    """One firm, and the environment of the processes that ask it."""

    def __init__(self, sim: SimulatedAdvoware, url: str, redis_url: str, redis: Redis) -> None:
        self.sim = sim
        self.redis = redis
        self.env = {
            "ADVOWARE_CONFIGURATOR_URL": f"{url}/AdvonetConfigurator/api/Url",
            "ADVOWARE_APP_ID": sim.firm.app_id,
            "ADVOWARE_API_KEY": sim.firm.api_key,
            "ADVOWARE_KANZLEI": sim.firm.kanzlei,
            "ADVOWARE_DATABASE": sim.firm.database,
            "ADVOWARE_USER": "SB",
            "ADVOWARE_PASSWORD": sim.firm.passwords["SB"],
            "REDIS_URL": redis_url,
        }

    @property
    def logins(self) -> int:
        """How many token requests the gateway has answered."""
        return sum(call.operation == "token" for call in self.sim.requests)

    @asynccontextmanager
    async def client(self, **changed: str) -> AsyncIterator[Advoware]:
        """Open the client of one process."""
        env, clock = {**self.env, **changed}, SystemClock()
        settings, redis = AdvowareSettings.from_env(env), RedisSettings.from_env(env)
        async with (
            aiohttp_transport(clock=clock) as transport,
            open_advoware(settings, redis, transport, clock) as client,
        ):
            yield client

    async def held(self, key: str) -> str:
        """Return what Redis holds there, empty when nothing."""
        value = await self.redis.get(key)
        return value.decode() if isinstance(value, bytes) else ""

    async def remember(self, token: str) -> None:
        """Let Redis hold a token that the firm does not know any more."""
        settings = AdvowareSettings.from_env(self.env)
        async with aiohttp_transport(clock=SystemClock()) as transport:
            credentials = Login(transport, settings, SystemClock()).credentials
        await RedisTokens(self.redis, credentials, SystemClock()).keep(token, 600)

    async def call(
        self, processes: "Sequence[Process]", calls: int, *, rounds: int = 1, pause: float = 0
    ) -> list[int]:
        """Return the statuses that the processes got, each for so many calls at once."""
        asked = (one.ask(self.env, calls, rounds, pause) for one in processes)
        return [status for told in await asyncio.gather(*asked) for status in told]


class Process:
    """A real process that makes calls when it is told to."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            [sys.executable, "-c", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def await_start(self) -> None:
        """Return once it has read its code."""
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    async def ask(self, *words: object) -> list[int]:
        """Let it make calls, and return their statuses."""
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(words) + "\n")
        stdin.flush()
        return [int(status) for status in json.loads(await asyncio.to_thread(stdout.readline))]

    def end(self) -> None:
        """End it."""
        self._child.kill()
        self._child.communicate()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Process]]:
    """Three processes; code is read once for all tests."""
    started = [Process() for _ in range(3)]
    try:
        for one in started:
            one.await_start()
        yield started
    finally:
        for one in started:
            one.end()


@pytest.fixture
async def office(stack: Stack) -> AsyncIterator[Office]:
    sim = SimulatedAdvoware(SimClock.real())
    sample_firm(sim)
    settings = RedisSettings.from_env({"REDIS_URL": stack.redis.url})
    url = settings.connection_url(settings.db_advoware_cache).get_secret_value()
    redis = Redis.from_url(url)
    await redis.delete(*KEYS)
    async with SimServer(sim) as server:
        yield Office(sim, server.url, stack.redis.url, redis)
    await redis.delete(*KEYS)
    await redis.aclose()


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged from info on."""
    with captured() as lines:
        yield lines


# -- one login ------------------------------------------------------------------------------------


async def test_exactly_one_token_request(office: Office, processes: list[Process]) -> None:
    await office.remember("a-token-whose-time-is-over")

    statuses = await office.call(processes, 167)

    assert statuses == [200] * 501
    assert office.logins == 1


async def test_a_start_without_any_token_asks_for_one(
    office: Office, processes: list[Process]
) -> None:
    assert await office.call(processes, 100) == [200] * 300
    assert office.logins == 1


async def test_a_token_that_is_revoked_while_calls_are_under_way_is_noticed_by_nobody(
    office: Office, processes: list[Process]
) -> None:
    for revocations in (1, 2, 3):
        before = len(office.sim.requests)
        calling = asyncio.ensure_future(office.call(processes, 10, rounds=15, pause=0.02))
        while len(office.sim.requests) < before + 60 and not calling.done():
            await asyncio.wait({calling}, timeout=0.01)
        assert office.sim.gateway.revoke() == 1
        assert not calling.done()

        assert await calling == [200] * 450
        assert office.logins == 1 + revocations


async def test_a_dead_holder_of_the_turn_is_waited_for_no_longer_than_its_time(
    office: Office,
) -> None:
    await office.redis.set(RedisTokens.LOCK, "a process that was killed", px=700)

    async with office.client() as client:
        await client.check()

    assert office.logins == 1
    assert not await office.redis.exists(RedisTokens.LOCK)


async def test_the_turn_of_another_is_not_given_back(office: Office) -> None:
    store = RedisTokens(office.redis, "digest", SystemClock())
    async with store.turn() as ours:
        assert ours
        async with store.turn() as second:
            assert not second
        assert await office.redis.exists(RedisTokens.LOCK)
        await office.redis.set(RedisTokens.LOCK, "another, after our time ran out")
    assert await office.held(RedisTokens.LOCK) == "another, after our time ran out"


# -- what lies in Redis ---------------------------------------------------------------------------


async def test_the_token_lies_where_the_predecessor_kept_it_and_as_long(office: Office) -> None:
    async with office.client() as client:
        await client.check()

    seconds = await office.redis.ttl("advoware_access_token")
    assert 52 * 60 < seconds <= 53 * 60
    since = datetime.fromisoformat(await office.held("advoware_token_timestamp"))
    assert abs(since - SystemClock().now()) < timedelta(seconds=20)
    assert await office.redis.ttl("advoware_token_timestamp") > 0
    assert not await office.redis.exists(RedisTokens.LOCK, RedisTokens.REFUSED)


async def test_a_token_of_another_database_is_none_of_ours(office: Office) -> None:
    await office.redis.set("advoware_access_token", "of the test database", ex=600)

    async with office.client() as client:
        await client.check()
    assert office.logins == 1
    unauthorized = [call for call in office.sim.requests if call.status == 401]
    assert unauthorized == []


async def test_refused_credentials_are_tried_by_one_process_and_corrected_ones_at_once(
    office: Office,
) -> None:
    wrong: Mapping[str, str] = {"ADVOWARE_PASSWORD": "falsches-kennwort"}
    async with office.client(**wrong) as first, office.client(**wrong) as second:
        with pytest.raises(Unauthorized, match="ADVOWARE_PASSWORD"):
            await first.check()
        with pytest.raises(HeldBack, match="ADVOWARE_PASSWORD") as held:
            await second.check()
    assert timedelta(0) < held.value.after <= timedelta(seconds=55)
    assert office.logins == 1
    assert "falsch" not in await office.held(RedisTokens.REFUSED)

    async with office.client() as client:
        await client.check()
    assert not await office.redis.exists(RedisTokens.REFUSED)


# -- without Redis --------------------------------------------------------------------------------


async def test_without_redis_every_process_has_its_token_and_says_so_once(
    office: Office,
    stack: Stack,
    lines: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(advoware_auth, "REDIS_AGAIN_SECONDS", 0.2)
    counted = metrics.value("bitbylaw_token_store_down_total")
    async with office.client() as first, office.client() as second:
        await stack.redis.stop()
        try:
            await asyncio.gather(*(client.check() for client in (first, second) for _ in range(20)))
            assert office.logins == 2
            assert metrics.value("bitbylaw_token_store_down_total") > counted
            assert metrics.value("bitbylaw_redis_up") == 0
            warnings = [line for line in lines if line["level"] == "warning"]
            assert [line["event"] for line in warnings] == [
                "Redis does not answer; each process logs in to Advoware by itself"
            ] * 2
        finally:
            await stack.redis.start()

        office.sim.gateway.revoke()
        async with asyncio.timeout(60):
            while not await _answers(office.redis, RedisTokens.TOKEN):
                await first.check()
                office.sim.gateway.revoke()
                await asyncio.sleep(0.1)
        before = office.logins
        await first.check()
        await second.check()
        await second.check()
        assert office.logins == before + 1, "they share one again"
    told = [line["event"] for line in lines if line["level"] == "info"]
    assert "Redis answers again; the login to Advoware is shared" in told


async def _answers(redis: Redis, key: str) -> bool:
    try:
        return bool(await redis.exists(key))
    except (RedisError, OSError):  # a connection from before the restart
        return False


async def test_nothing_secret_is_logged_or_counted(
    office: Office, lines: list[dict[str, Any]]
) -> None:
    async with office.client() as client:
        await client.check()
        token = await office.held(RedisTokens.TOKEN)
        office.sim.gateway.revoke()
        await client.check()
        async with client.call("POST", "Beteiligte", body=b'{"name": "GEHEIM"}') as answer:
            await answer.read()

    shown = f"{lines} {metrics.render()[0].decode()}"
    newer = await office.held(RedisTokens.TOKEN)
    for secret in (token, newer, office.env["ADVOWARE_PASSWORD"], "GEHEIM"):
        assert secret not in shown
    assert lines, "it tells that it logged in"
