"""When a member fetches what operators ask for, beside events that come thick."""

from itertools import pairwise

from bitbylaw_common.runtime.hosts.kafka_host import (
    REQUESTS_SECONDS,
    ROUNDS_OF_A_LOOK,
    RequestLooks,
)


def looks_of(rounds: int, *, records: int, apart: float) -> list[float]:
    """Return the times of the rounds that fetch requests, of rounds that bring so many records."""
    looks, found = RequestLooks(), []
    for number in range(rounds):
        now = number * apart
        if looks.due(now):
            found.append(now)
        looks.fetched(records)
    return found


def test_where_nothing_comes_requests_are_fetched_in_every_round() -> None:
    assert len(looks_of(50, records=0, apart=0.2)) == 50


def test_where_events_come_thick_they_are_fetched_a_few_rounds_at_a_time() -> None:
    found = looks_of(1_000, records=1, apart=0.002)
    assert 2 * ROUNDS_OF_A_LOOK <= len(found) <= 1_000 // 10
    pauses = [later - earlier for earlier, later in pairwise(found)]
    assert max(pauses) <= REQUESTS_SECONDS + 0.005
    assert sum(pause > REQUESTS_SECONDS / 2 for pause in pauses) >= 6


def test_however_slow_the_rounds_are_every_look_is_a_few_of_them() -> None:
    """A fetch that began before a look does not name the requests: one round would never see them."""
    found = looks_of(400, records=3, apart=0.19)
    rounds = [round(now / 0.19) for now in found]
    begun = [number for number in rounds if number - 1 not in rounds]
    assert begun
    assert all(set(range(n, min(n + ROUNDS_OF_A_LOOK, 400))) <= set(rounds) for n in begun)


def test_one_empty_round_is_time_to_look() -> None:
    looks = RequestLooks()
    for number in range(ROUNDS_OF_A_LOOK):
        assert looks.due(number / 1_000)
        looks.fetched(1)
    assert not looks.due(0.01)
    looks.fetched(0)
    assert looks.due(0.011)
