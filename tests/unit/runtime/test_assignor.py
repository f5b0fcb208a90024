"""The assignor: one member owns partition p of every topic it reads, whatever the others read."""

import random
from collections.abc import Mapping

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from bitbylaw_common.kafka.assignor import NumberAssignor
from bitbylaw_common.topics import PARTITIONS


class Cluster(ClusterMetadata):  # type: ignore[misc]  # aiokafka has no types
    """Topics with their numbers of partitions."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        super().__init__()
        self._partitions_of = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._partitions_of.get(topic)
        return None if count is None else set(range(count))


def assign(
    cluster: Mapping[str, int], members: Mapping[str, list[str]]
) -> dict[str, dict[str, list[int]]]:
    asked: dict[str, ConsumerProtocolMemberMetadata] = {
        member: NumberAssignor.metadata(topics) for member, topics in members.items()
    }
    found = NumberAssignor.assign(Cluster(cluster), asked)
    return {member: dict(owned.assignment) for member, owned in found.items()}


@pytest.mark.parametrize("count", range(1, 16))
def test_every_number_has_one_owner_and_nobody_has_much_more_than_another(count: int) -> None:
    members = {f"member-{n:02}": ["a"] for n in range(count)}
    owned = [numbers["a"] for numbers in assign({"a": PARTITIONS}, members).values()]

    assert sorted(n for numbers in owned for n in numbers) == list(range(PARTITIONS))
    sizes = [len(numbers) for numbers in owned]
    assert max(sizes) - min(sizes) <= 1


def test_two_versions_that_read_different_topics_share_the_numbers_alike() -> None:
    owned = assign(
        {"a": PARTITIONS, "b": PARTITIONS}, {"old": ["a"], "new": ["a", "b"], "newer": ["b", "a"]}
    )
    assert owned["new"] == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert owned["newer"] == {"a": [4, 5, 6, 7], "b": [4, 5, 6, 7]}
    assert owned["old"] == {"a": [8, 9, 10, 11]}


def test_whatever_members_read_no_topic_s_partition_p_is_torn_from_another_s() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        names = [f"t{n}" for n in range(chance.randint(1, 4))]
        members = {
            f"m{n}": chance.sample(names, chance.randint(1, len(names)))
            for n in range(chance.randint(1, 14))
        }
        owned = assign(dict.fromkeys(names, PARTITIONS), members)
        assert owned.keys() == members.keys()
        for member, topics in owned.items():
            assert set(topics) == set(members[member])
            assert len({tuple(numbers) for numbers in topics.values()}) == 1, f"seed {seed}"
        for topic in names:
            taken = [n for topics in owned.values() for n in topics.get(topic, [])]
            assert len(taken) == len(set(taken)), f"seed {seed}: two own a partition of {topic}"


def test_the_order_in_which_members_join_decides_nothing() -> None:
    members = {f"m{n}": ["a"] for n in range(5)}
    assert assign({"a": PARTITIONS}, members) == assign(
        {"a": PARTITIONS}, dict(reversed(members.items()))
    )


def test_a_topic_that_is_not_there_gives_nothing_and_a_small_one_what_it_has() -> None:
    owned = assign({"small": 2}, {"m0": ["small", "absent"], "m1": ["small"]})
    assert owned == {"m0": {"small": [0, 1], "absent": []}, "m1": {"small": []}}


def test_what_a_member_says_of_itself_survives_the_wire() -> None:
    said = NumberAssignor.metadata(["b", "a"])
    heard = ConsumerProtocolMemberMetadata.decode(said.encode())
    assert (heard.version, list(heard.subscription)) == (0, ["a", "b"])
    assert NumberAssignor.name == "bitbylaw-numbers"
