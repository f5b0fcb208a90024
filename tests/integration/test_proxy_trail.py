"""The Advoware proxy on a real Kafka and Redis: its functions, its trail, one token for two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from bitbylaw_advoware_proxy.app import app
from bitbylaw_common import topics
from bitbylaw_common.events import ProxyAnswered
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.hosting import Hosting, hosting, topics_of
from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer
from contract.proxied import settings_of

pytestmark = pytest.mark.kafka


@pytest.fixture
async def sim() -> AsyncIterator[tuple[Advoware, str]]:
    advoware = Advoware(SimClock.real())
    sample_firm(advoware)
    async with SimServer(advoware) as server:
        yield advoware, server.url


async def test_calls_through_two_proxies_share_a_token_and_leave_a_trail(
    sim: tuple[Advoware, str], kafka_bootstrap: str, redis_url: str
) -> None:
    advoware, url = sim
    connect = {"bootstrap_servers": kafka_bootstrap}
    env = settings_of(
        {
            "ADVOWARE_API_BASE_URL": f"{url}/relay",
            "ADVOWARE_SECURITY_GATEWAY_URL": f"{url}/security",
            "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
            "REDIS_URL": redis_url,
            "HTTP_PORT": "0",
        }
    )
    del env["REDIS_PORT"]
    async with admin(connect) as kafka:
        await kafka.apply(topics_of(app))

    told: set[str] = set()
    async with AsyncExitStack() as opened:
        session = await opened.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        )
        proxies: list[Hosting] = [
            await opened.enter_async_context(hosting([app], env)) for _ in range(2)
        ]
        for number in range(6):
            target = f"{proxies[number % 2].url}/advoware/proxy?endpoint=employees&n={number}"
            async with session.get(target) as answer:
                assert answer.status == 200
                told.add(answer.headers["x-request-id"])

        # the fleet's functions are known to each of them
        async with asyncio.timeout(60):
            while True:
                async with session.get(f"{proxies[0].url}/_console/functions") as answer:
                    listed = {one["name"]: one for one in (await answer.json())["functions"]}
                if listed.get("Advoware Proxy GET", {}).get("last_success"):
                    break
                await asyncio.sleep(0.1)  # it comes over Kafka
        assert {f"Advoware Proxy {verb}" for verb in ("GET", "POST", "PUT", "DELETE")} <= set(
            listed
        )
        assert listed["Advoware Proxy GET"]["service"] == "advoware-proxy"

    found: dict[str, ProxyAnswered] = {}
    partitions: set[int] = set()
    async with KafkaLog(connect, service="test") as log:
        await log.connected(60)
        places = {(topics.PROXY_RESPONSE.name, number): 0 for number in range(topics.PARTITIONS)}
        async for record in log.read(places):
            event, _ = codec.decode(topics.PROXY_RESPONSE, record)
            found[event.request_id] = event
            if event.request_id in told:
                partitions.add(record.partition)
    assert told <= set(found)
    assert len(partitions) == 1  # of one caller
    assert {found[one].endpoint for one in told} == {"api/v1/advonet/employees"}
    logins = [call for call in advoware.requests if call.path.endswith("/Token")]
    assert len(logins) == 1
