"""What a member makes of aiokafka's callbacks, without a broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.kafka import consumer as group_consumer
from bitbylaw_common.kafka.consumer import GroupConsumer, _Listener
from bitbylaw_common.runtime.offsets import Commit


class Host:
    """Notes what it is told; raises where a test wants it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, frozenset[int]]] = []
        self.broken: list[Exception] = []
        self._error = error

    async def assigned(
        self, numbers: frozenset[int], commits: Mapping[tuple[str, int], Commit]
    ) -> None:
        assert not commits
        if self._error is not None:
            raise self._error
        self.told.append(("assigned", numbers))

    async def revoked(self, numbers: frozenset[int]) -> None:
        if self._error is not None:
            raise self._error
        self.told.append(("revoked", numbers))

    def listener(self) -> _Listener:
        return _Listener(("a", "b"), self.assigned, self.revoked, self.broken.append)


def places(*pairs: tuple[str, int]) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for topic, number in pairs}


async def test_a_number_counts_only_where_it_is_owned_in_every_topic() -> None:
    host = Host()
    listener = host.listener()
    await listener.on_partitions_assigned(places(("a", 1), ("a", 2), ("b", 2)))
    await listener.on_partitions_revoked(places(("a", 1), ("a", 2), ("b", 2)))
    assert host.told == [("assigned", frozenset({2})), ("revoked", frozenset({2}))]


async def test_a_member_without_partitions_is_told_so_and_is_ready() -> None:
    host = Host()
    await host.listener().on_partitions_assigned(set())
    assert host.told == [("assigned", frozenset())]


async def test_what_a_callback_raises_is_told_and_not_swallowed() -> None:
    error = RuntimeError("the state could not be loaded")
    host = Host(error)
    listener = host.listener()
    await listener.on_partitions_assigned(places(("a", 1), ("b", 1)))
    await listener.on_partitions_revoked(places(("a", 1), ("b", 1)))
    assert host.broken == [error, error]


async def test_each_rebalance_is_a_generation_of_its_own() -> None:
    host = Host()
    listener = host.listener()
    before = listener.generation
    await listener.on_partitions_revoked(set())
    await listener.on_partitions_assigned(set())
    assert listener.generation == before + 1


class Coordinator:
    """Stands for aiokafka's: answers heartbeats and commits as a test wants it."""

    def __init__(self) -> None:
        self.generation = 1
        self.beats: Callable[[], Awaitable[bool]]
        self.commits: Callable[[], Awaitable[None]]
        self._coordination_task: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ensure_coordinator_known(self) -> None:
        pass

    async def refuse(self) -> bool:
        """Answer a heartbeat as to a stranger; aiokafka forgets its generation then."""
        self.generation = -1
        return False

    async def _do_heartbeat(self) -> bool:
        return await self.beats()

    async def _do_commit_offsets(self, assigned: object, offsets: object) -> None:
        assert assigned
        assert offsets
        await self.commits()


class Kafka:
    """Stands for aiokafka's consumer, with a coordinator of the test."""

    def __init__(self, **_options: object) -> None:
        self._coordinator = Coordinator()

    def assignment(self) -> set[TopicPartition]:
        return places(("a", 1))

    async def getmany(self, **_limits: int) -> None:
        raise KafkaError("Unexpected error during coordination")


class Member:
    """A group consumer over a Kafka of the test.

    Attributes:
        refusals: of each, whether the broker had been silent.
    """

    def __init__(self, *, session_seconds: float = 30) -> None:
        host = Host()
        self.refusals: list[bool] = []
        self.consumer = GroupConsumer(
            {},
            group="toy",
            topics=("a",),
            instance=None,
            session_seconds=session_seconds,
            rebalance_seconds=60,
            assigned=host.assigned,
            revoked=host.revoked,
            refused=self._refused,
            broken=host.broken.append,
        )
        self.coordinator: Coordinator = self.consumer._consumer._coordinator
        self.consumer._watch_heartbeats()

    def _refused(self) -> bool:
        self.refusals.append(self.consumer.broker_was_silent(60))
        return False

    async def commit(self) -> bool:
        return await self.consumer.commit({("a", 1): Commit(5, "")})


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_consumer, "AIOKafkaConsumer", Kafka)


async def test_a_refusal_after_a_heartbeat_that_nobody_answered_is_told_apart() -> None:
    member = Member(session_seconds=1)
    answered = asyncio.Event()

    async def refused() -> bool:
        await answered.wait()
        return await member.coordinator.refuse()

    member.coordinator.beats = refused
    beating = asyncio.ensure_future(member.coordinator._do_heartbeat())
    async with asyncio.timeout(30):
        while not member.consumer.broker_was_silent(60):  # noqa: ASYNC110 - it tells who asks
            await asyncio.sleep(0.01)
    answered.set()
    await beating
    assert member.refusals == [True]


async def test_a_refusal_out_of_the_blue_is_ours() -> None:
    member = Member()
    member.coordinator.beats = member.coordinator.refuse
    await member.coordinator._do_heartbeat()
    assert member.refusals == [False]


async def test_a_connection_that_breaks_is_a_silent_broker_until_it_answers() -> None:
    member = Member()

    async def broken() -> bool:
        return False

    async def accepted() -> bool:
        return True

    member.coordinator.beats = broken
    await member.coordinator._do_heartbeat()
    assert member.consumer.broker_was_silent(0)
    member.coordinator.beats = accepted
    await member.coordinator._do_heartbeat()
    assert not member.consumer.broker_was_silent(0)
    assert member.consumer.broker_was_silent(60)


async def test_a_commit_that_is_given_up_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_consumer, "COMMIT_SECONDS", 0.1)
    member = Member()
    ended = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    member.coordinator.commits = never
    with pytest.raises(LogUnavailableError, match="TimeoutError"):
        await member.commit()
    assert ended.is_set()


async def test_a_commit_is_tried_again_while_the_coordinator_moves() -> None:
    member = Member()
    errors = [NotCoordinatorForGroupError(), NotCoordinatorForGroupError()]

    async def moved() -> None:
        if errors:
            raise errors.pop()

    member.coordinator.commits = moved
    assert await member.commit()
    assert errors == []


async def test_a_commit_of_a_stranger_is_a_refusal_and_one_in_a_rebalance_is_put_off() -> None:
    member = Member()

    async def unknown() -> None:
        raise UnknownMemberIdError

    async def rebalancing() -> None:
        raise RebalanceInProgressError

    member.coordinator.commits = unknown
    assert not await member.commit()
    assert len(member.refusals) == 1
    member.coordinator.commits = rebalancing
    with pytest.raises(LogUnavailableError, match="rebalancing"):
        await member.commit()
    assert len(member.refusals) == 1


async def test_what_is_assigned_no_more_is_not_committed() -> None:
    member = Member()
    assert not await member.consumer.commit({("a", 2): Commit(5, "")})
    assert member.refusals == []


async def test_a_fetch_that_fails_is_tried_again_but_not_where_the_membership_broke() -> None:
    member = Member()
    with pytest.raises(LogUnavailableError, match="fetch failed: KafkaError"):
        await member.consumer.fetch()
    member.coordinator._coordination_task.set_result(None)
    with pytest.raises(OwnershipLost, match="membership of the group broke"):
        await member.consumer.fetch()
