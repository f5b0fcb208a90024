"""When a member that its group refuses ends by itself."""

from bitbylaw_common.runtime.hosts.kafka_host import REFUSALS_SECONDS, Refusals


def test_a_member_refused_twice_in_a_minute_ends() -> None:
    refusals = Refusals(None)
    assert refusals.told(1_000, in_time=False) == ""
    assert "raise BBL_SESSION_SECONDS" in refusals.told(1_000 + REFUSALS_SECONDS, in_time=False)


def test_a_member_refused_seldom_joins_again() -> None:
    refusals = Refusals("worker-0")
    seconds = REFUSALS_SECONDS + 1
    assert [refusals.told(turn * seconds, in_time=False) for turn in range(5)] == [""] * 5


def test_a_named_member_refused_in_time_has_a_namesake() -> None:
    assert "BBL_INSTANCE=worker-0" in Refusals("worker-0").told(0, in_time=True)
    assert Refusals(None).told(0, in_time=True) == ""
