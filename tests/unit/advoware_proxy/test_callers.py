"""Who may ask for what, and how often."""

import pytest

from bitbylaw_advoware_proxy.domain.callers import (
    ANYBODY,
    Allowance,
    Caller,
    Scope,
    caller_of,
    digest,
    pattern,
    shown,
    spend,
)
from bitbylaw_advoware_proxy.domain.rules import Target, target

PREFIX = "api/v1/advonet/"


def asked(endpoint: str) -> Target:
    found = target(f"endpoint={endpoint}", PREFIX)
    assert isinstance(found, Target)
    return found


def caller(*patterns: str, methods: str = "GET") -> Caller:
    scope = Scope(frozenset(methods.split()), tuple(pattern(one, PREFIX) for one in patterns))
    return Caller("portal", (digest("key"),), (scope,))


@pytest.mark.parametrize(
    ("wanted", "granted", "refused"),
    [
        ("employees", ["employees", "employ%65es", "api/v1/advonet/employees"], ["employees/1", "Employees"]),
        ("Beteiligte/*", ["Beteiligte/1", "Beteiligte/x"], ["Beteiligte", "Beteiligte/1/Adressen"]),
        ("Beteiligte/*/Adressen", ["Beteiligte/1/Adressen"], ["Beteiligte/1/Kommunikationen"]),
        ("Beteiligte/**", ["Beteiligte", "Beteiligte/1/Adressen/2"], ["BeteiligteX", "Akten"]),
        ("api/v1/Akten/**", ["api/v1/Akten/7"], ["Akten/7", "api/v1/advonet/Akten/7"]),
        ("**", ["employees", "api/v1/Akten/7"], []),
    ],
)  # fmt: skip
def test_a_pattern_grants_whole_segments_of_the_address_that_is_really_asked(
    wanted: str, granted: list[str], refused: list[str]
) -> None:
    portal = caller(wanted)
    assert [one for one in granted if not portal.may("GET", asked(one))] == []
    assert [one for one in refused if portal.may("GET", asked(one))] == []


def test_a_scope_grants_its_methods_alone() -> None:
    portal = caller("employees", methods="GET POST")
    granted = {m for m in ("GET", "POST", "PUT", "DELETE") if portal.may(m, asked("employees"))}
    assert granted == {"GET", "POST"}


@pytest.mark.parametrize(
    "text", ["", "/", "a//b", "../x", "a/**/b", "emp*", "http://x", "a?b", "a/***"]
)
def test_a_pattern_that_no_endpoint_could_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        pattern(text, PREFIX)


def test_a_key_is_taken_from_either_header() -> None:
    assert shown({"apikey": "one"}) == ("one",)
    assert shown({"authorization": "bearer  two"}) == ("two",)
    assert shown({"apikey": "one", "authorization": "Bearer two"}) == ("one", "two")
    assert shown({"authorization": "Basic dXNlcjpwdw=="}) == ()
    assert shown({"authorization": "Bearer "}) == ()


def test_a_caller_is_known_by_each_of_its_keys_and_nobody_by_another() -> None:
    portal = Caller("portal", (digest("new"), digest("old")), ())
    other = Caller("other", (digest("third"),), ())
    callers = (portal, other)
    assert caller_of(["new"], callers) is portal
    assert caller_of(["old"], callers) is portal
    assert caller_of(["wrong", "third"], callers) is other
    assert caller_of(["thir"], callers) is None
    assert caller_of([], callers) is None
    assert caller_of(["\udcff"], callers) is None


def test_a_caller_s_keys_do_not_show_when_it_is_printed() -> None:
    assert digest("key").hex()[:8] not in repr(caller("**")) + repr(digest("other"))
    assert "digest" not in repr(caller("**"))


def test_where_no_keys_are_anybody_may_do_everything() -> None:
    assert all(ANYBODY.may(m, asked("a/b/c")) for m in ("GET", "POST", "PUT", "DELETE"))


def test_an_allowance_lasts_for_a_minute_s_calls_at_once_and_grows_back_evenly() -> None:
    left: Allowance | None = None
    for _ in range(60):
        left, wait = spend(left, 60, 100.0)
        assert wait == 0
    left, wait = spend(left, 60, 100.0)
    assert wait == pytest.approx(1.0)
    left, wait = spend(left, 60, 100.5)
    assert wait == pytest.approx(0.5)
    left, wait = spend(left, 60, 101.0)
    assert wait == 0


@pytest.mark.parametrize("per_minute", [1, 7, 60, 6000])
def test_however_calls_come_no_more_are_made_than_the_rate_allows(per_minute: int) -> None:
    left: Allowance | None = None
    made = 0
    for tenth in range(3000):  # five minutes, asked for twice every tenth of a second
        for _ in range(2):
            left, wait = spend(left, per_minute, tenth / 10)
            made += wait == 0
    assert min(6000, per_minute * 6) - 1 <= made <= per_minute * 6


def test_a_clock_that_stands_still_gives_nothing_back() -> None:
    left, _ = spend(None, 1, 50.0)
    assert spend(left, 1, 40.0)[1] == pytest.approx(60.0)
