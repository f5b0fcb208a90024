"""What is wrong with EspoCRM's registrations, and what mends it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbylaw_common.registrations import (
    Change,
    Create,
    Deactivate,
    Fault,
    Leave,
    Mend,
    Registration,
    Wanted,
    chosen,
    findings,
    mending,
    shown_url,
)
from bitbylaw_common.webhooks import WEBHOOKS

BASE = "https://hooks.kanzlei.example"
WANTED = Wanted(BASE, "api-user")
UPDATE = next(webhook for webhook in WEBHOOKS if webhook.event == "CDokumente.update")


def nine() -> list[Registration]:
    return [
        Registration(f"wh-{number}", webhook.event, WANTED.url(webhook), True, True, "api-user")
        for number, webhook in enumerate(WEBHOOKS)
    ]


def with_update(**other: object) -> list[Registration]:
    return [
        replace(one, **other) if one.event == UPDATE.event else one  # type: ignore[arg-type]  # a test's own
        for one in nine()
    ]


def faults(found: Sequence[Registration], wanted: Wanted = WANTED) -> set[tuple[str, Fault]]:
    return {(finding.webhook.event, finding.fault) for finding in findings(found, wanted)}


def mended(found: Sequence[Registration], mends: Sequence[Mend]) -> list[Registration]:
    """Return what EspoCRM has after the mending."""
    by_id = {one.id: one for one in found}
    for number, mend in enumerate(mends):
        match mend:
            case Create(webhook, url):
                made = Registration(f"zz-{number}", webhook.event, url, True, True, "api-user")
                by_id[made.id] = made
            case Change(_, old, url, activate, skip_own):
                by_id[old.id] = replace(
                    old,
                    url=url or old.url,
                    active=old.active or activate,
                    skip_own=old.skip_own or skip_own,
                )
            case Deactivate(_, old):
                by_id[old.id] = replace(old, active=False)
    return list(by_id.values())


def test_nine_registrations_as_they_should_be_need_nothing() -> None:
    assert findings(nine(), WANTED) == ()
    assert mending(nine(), WANTED) == ()


def test_nothing_registered_is_nine_times_missing_and_made() -> None:
    assert faults([]) == {(webhook.event, Fault.MISSING) for webhook in WEBHOOKS}
    assert mending([], WANTED) == tuple(
        Create(webhook, f"{BASE}/vmh/webhook/{webhook.entity}/{webhook.action}")
        for webhook in WEBHOOKS
    )


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"active": False}, Fault.INACTIVE),
        ({"url": f"https://old.example{UPDATE.route}"}, Fault.ELSEWHERE),
        ({"url": f"{BASE}/vmh/webhook/document/create"}, Fault.ELSEWHERE),
        ({"url": f"{BASE}{UPDATE.route}/"}, Fault.ELSEWHERE),
        ({"skip_own": False}, Fault.ECHOES),
        ({"user_id": None}, Fault.OTHER_USER),
    ],
)
def test_one_that_is_wrong_is_told_and_the_others_are_not(
    other: dict[str, object], fault: Fault
) -> None:
    assert faults(with_update(**other)) == {(UPDATE.event, fault)}


def test_what_is_ours_is_changed_in_place_so_that_its_secret_stays() -> None:
    found = with_update(active=False, url=f"https://old.example{UPDATE.route}", skip_own=False)
    (change,) = mending(found, WANTED)
    assert change == Change(
        UPDATE,
        next(one for one in found if one.event == UPDATE.event),
        WANTED.url(UPDATE),
        activate=True,
        skip_own=True,
    )


def test_what_others_registered_for_the_same_event_is_left_alone() -> None:
    theirs = Registration(
        "dms", UPDATE.event, "https://dms.example/hook", True, False, "another-user"
    )
    assert findings([*nine(), theirs], WANTED) == ()
    without = [one for one in nine() if one.event != UPDATE.event]
    assert faults([*without, theirs]) == {(UPDATE.event, Fault.MISSING)}
    assert mending([*without, theirs], WANTED) == (Create(UPDATE, WANTED.url(UPDATE)),)


def test_another_user_s_registration_is_replaced_and_left_to_an_administrator() -> None:
    create, leave = mending(with_update(user_id=None), WANTED)
    assert create == Create(UPDATE, WANTED.url(UPDATE))
    assert isinstance(leave, Leave)
    assert "administrator" in leave.why


def test_a_duplicate_goes_only_once_ingest_has_the_secret_of_the_one_that_stays() -> None:
    twin = Registration("a-twin", UPDATE.event, WANTED.url(UPDATE), True, True, "api-user")
    found = [*nine(), twin]
    assert faults(found) == {(UPDATE.event, Fault.DUPLICATE)}

    nobody = replace(WANTED, secrets=frozenset())
    (leave,) = mending(found, nobody)
    assert isinstance(leave, Leave)
    both = {one.id for one in found}
    assert mending(found, replace(WANTED, secrets=both - {"a-twin"})) == (Deactivate(UPDATE, twin),)


def test_the_one_whose_secret_is_known_stays() -> None:
    known = next(one for one in nine() if one.event == UPDATE.event)
    older = replace(known, id="a-older")
    wanted = replace(WANTED, secrets={one.id for one in nine()})
    assert chosen(UPDATE, [older, known], wanted) == known
    assert (UPDATE.event, Fault.UNBELIEVED) not in faults([*nine(), older], wanted)


def test_a_secret_that_ingest_does_not_have_is_told() -> None:
    ids = {one.id for one in nine() if one.event != UPDATE.event}
    assert faults(nine(), replace(WANTED, secrets=ids)) == {(UPDATE.event, Fault.UNBELIEVED)}


def test_without_an_address_the_route_alone_counts() -> None:
    anywhere = Wanted()
    assert findings(with_update(url=f"http://ingest:8080{UPDATE.route}"), anywhere) == ()
    crossed = with_update(url="http://ingest:8080/vmh/webhook/document/delete")
    assert faults(crossed, anywhere) == {(UPDATE.event, Fault.ELSEWHERE)}
    with pytest.raises(ValueError, match="where EspoCRM reaches ingest"):
        mending(nine(), anywhere)


def test_an_address_is_shown_without_the_key_in_it() -> None:
    url = f"https://kong:geheim@hooks.example{UPDATE.route}?apikey=geheim"
    assert shown_url(url) == f"https://hooks.example{UPDATE.route}?…"


REGISTRATIONS = st.lists(
    st.builds(
        Registration,
        id=st.uuids().map(str),
        event=st.sampled_from([webhook.event for webhook in WEBHOOKS[:2]]),
        url=st.sampled_from(
            [
                *(WANTED.url(webhook) for webhook in WEBHOOKS[:2]),
                f"https://old.example{WEBHOOKS[0].route}",
                "https://dms.example/hook",
            ]
        ),
        active=st.booleans(),
        skip_own=st.booleans(),
        user_id=st.sampled_from(["api-user", None]),
    ),
    max_size=5,
    unique_by=lambda one: one.id,
)


@given(REGISTRATIONS)
def test_mending_ends_and_leaves_nothing_wrong_but_what_is_another_s(
    found: list[Registration],
) -> None:
    after = mended(found, mending(found, WANTED))
    assert all(isinstance(mend, Leave) for mend in mending(after, WANTED))
    left = {finding.fault for finding in findings(after, WANTED)}
    assert left <= {Fault.DUPLICATE}
    others = [one for one in found if one.user_id != "api-user"]
    assert all(one in after for one in others)
