"""Hands out partition numbers, so that one member owns partition p of every topic."""

from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from bitbylaw_common.topics import PARTITIONS


class NumberAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Divides the numbers 0 to 11 among the members, in the order of their ids.

    Kafka's range assignor divides topic by topic, so two versions that subscribe to different
    topics would tear partition p apart. Here a member gets its numbers in every topic that it
    subscribes to, whatever the others know.
    """

    name = "bitbylaw-numbers"
    version = 0

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return what each member owns."""
        ranked = sorted(members)
        owned: dict[str, ConsumerProtocolMemberAssignment] = {}
        for rank, member in enumerate(ranked):
            numbers = [p for p in range(PARTITIONS) if p * len(ranked) // PARTITIONS == rank]
            topics = [
                (topic, [p for p in numbers if p in (cluster.partitions_for_topic(topic) or ())])
                for topic in sorted(members[member].subscription)
            ]
            owned[member] = ConsumerProtocolMemberAssignment(cls.version, topics, b"")
        return owned

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what a member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(cls.version, sorted(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing is kept between assignments."""
