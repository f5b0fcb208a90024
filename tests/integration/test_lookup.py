"""Clients that begin while a broker answers already, but names no brokers yet."""

import asyncio
from collections.abc import Mapping

import pytest
from aiokafka.client import AIOKafkaClient

from bitbylaw_common import topics
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.consumer import GroupConsumer
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.offsets import Commit
from bitbylaw_common.runtime.ports import Outgoing

pytestmark = pytest.mark.kafka
BASE = topics.base("lookup")
NOBODY_TIMES = 3


@pytest.fixture
async def connect(kafka_bootstrap: str) -> Mapping[str, str]:
    """How to connect to a broker that has the topic."""
    options = {"bootstrap_servers": kafka_bootstrap}
    async with admin(options) as kafka:
        await kafka.apply([BASE])
    return options


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, connect: Mapping[str, str]) -> list[AIOKafkaClient]:
    """Let each client know no broker the first few times that it looks for one; return who did."""
    random_node, lookers = AIOKafkaClient.get_random_node, []

    def get_random_node(client: AIOKafkaClient) -> int | None:
        lookers.append(client)
        known: int | None = random_node(client)
        return None if lookers.count(client) <= NOBODY_TIMES else known

    monkeypatch.setattr(AIOKafkaClient, "get_random_node", get_random_node)
    return lookers


async def test_a_state_is_taken_over_once_a_broker_is_known(
    connect: Mapping[str, str], nobody: list[AIOKafkaClient]
) -> None:
    log = KafkaLog(connect, service="lookup")
    state = await log.take_over("lookup", 3)
    await state.write([Outgoing(BASE.name, b"thing:a", b"1", {}, 3)])
    await state.close()
    assert len(nobody) > NOBODY_TIMES


async def test_a_log_opens_once_a_broker_is_known(
    connect: Mapping[str, str], nobody: list[AIOKafkaClient]
) -> None:
    async with KafkaLog(connect, service="lookup") as log:
        await log.connected(30)
        (position,) = await log.append([Outgoing(BASE.name, b"thing:b", b"1", {}, 4)])
    assert position.partition == 4
    assert len(nobody) > NOBODY_TIMES


async def test_a_member_joins_its_group_once_a_broker_is_known(
    connect: Mapping[str, str], nobody: list[AIOKafkaClient]
) -> None:
    owned: asyncio.Queue[frozenset[int]] = asyncio.Queue()
    broken: list[Exception] = []

    async def assigned(numbers: frozenset[int], _commits: Mapping[tuple[str, int], Commit]) -> None:
        await owned.put(numbers)

    async def revoked(_numbers: frozenset[int]) -> None:
        pass

    member = GroupConsumer(
        connect,
        group="lookup",
        topics=(BASE.name,),
        instance=None,
        session_seconds=6,
        rebalance_seconds=10,
        assigned=assigned,
        revoked=revoked,
        refused=lambda: True,
        broken=broken.append,
    )
    await member.start()
    try:
        async with asyncio.timeout(30):
            assert await owned.get() == frozenset(range(topics.PARTITIONS))
    finally:
        await member.stop()
    assert broken == []
    assert len(nobody) > NOBODY_TIMES
