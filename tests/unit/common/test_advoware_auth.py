"""Logging in to Advoware: what is signed, what is refused, and who asks for a token."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbylaw_common import metrics
from bitbylaw_common.circuits import Circuits, State
from bitbylaw_common.clients import advoware_auth
from bitbylaw_common.clients.advoware_auth import (
    Addresses,
    Grant,
    Kept,
    Tokens,
    addresses_of,
    lifetime_of,
    signature,
    timestamp_of,
    usable,
)
from bitbylaw_common.clients.advoware_words import KNOWN, trouble
from bitbylaw_common.errors import (
    HeldBack,
    OutsideError,
    RateLimited,
    TimedOut,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.guarded import GuardedTransport
from log_lines import captured
from scripted_transport import Answer, Lost, Seen, of
from unit.common.firm import ADDRESSES, API_KEY, PASSWORD, Firm, text

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)

# -- what is signed -------------------------------------------------------------------------------


def test_the_signature_is_the_one_of_the_known_example() -> None:
    signed = signature(
        product=64,
        app_id="app-123",
        nonce="nonce-abc",
        timestamp="2026-08-30T00:00:00.000Z",
        api_key=API_KEY,
    )

    assert signed == (
        "o7rz9KmoXZs550HfzO6ffiG17XwiPmlBHlksUYKZ3jcfolELow51Fw5KlrQqCK5y41aIValDjrh1iQ2GZ2WtqQ=="
    )


def test_a_time_is_told_in_utc_with_milliseconds() -> None:
    berlin = datetime.fromisoformat("2026-08-30T02:00:00.123456+02:00")
    assert timestamp_of(berlin) == "2026-08-30T00:00:00.123Z"


async def test_a_token_request_carries_what_the_gateway_asks_for() -> None:
    firm = Firm()

    await firm.login().log_in()

    (seen,) = firm.asked("log_in")
    body = seen.json
    signed = body.pop("HMAC512Signature")
    assert (seen.method, seen.request.url) == ("POST", "https://security.test/api/v1/Token")
    assert signed == signature(
        product=64,
        app_id="app-123",
        nonce=body["Nonce"],
        timestamp=body["RequestTimeStamp"],
        api_key=API_KEY,
    )
    nonce = body.pop("Nonce")
    assert len(nonce) == 36
    assert body == {
        "AppID": "app-123",
        "Kanzlei": "kanzlei 7",
        "Database": "muster",
        "User": "SB",
        "Role": 2,
        "Product": 64,
        "Password": PASSWORD,
        "RequestTimeStamp": "2026-03-08T10:00:00.000Z",
    }
    assert not seen.request.idempotent, "a nonce counts once"


async def test_every_token_request_has_a_nonce_of_its_own() -> None:
    firm = Firm()
    login = firm.login()

    await login.log_in()
    await login.log_in()

    assert len({seen.json["Nonce"] for seen in firm.asked("log_in")}) == 2


# -- how long a token is good ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "minutes"),
    [
        ({"expiration_utc": "2026-03-01T10:30:00.123Z"}, 30),
        ({"expiration_utc": "2026-03-01T10:30:00.1234567Z"}, 30),
        ({"expiration_utc": "2026-03-01T10:30:00"}, 30),
        ({"expiration_utc": "2026-03-01T11:30:00+01:00"}, 30),
        ({"expires_in": 1200}, 20),
        ({"expires_in": "1200"}, 20),
        ({"expiration_utc": "2026-03-01T10:30:00Z", "expires_in": 1200}, 20),
        ({"expiration_utc": "2026-03-01T09:00:00Z"}, 55),
        ({"expiration_utc": "soon", "expires_in": -1}, 55),
        ({"expiration_utc": 5, "expires_in": None}, 55),
        ({"expires_in": float("nan")}, 55),
        ({}, 55),
    ],
)
def test_a_token_is_used_as_long_as_its_answer_says(answer: dict[str, Any], minutes: int) -> None:
    found = lifetime_of(answer, now=NOW, most=timedelta(minutes=55))
    assert round(found.total_seconds() / 60) == minutes


async def test_a_token_is_used_no_longer_than_the_settings_say() -> None:
    firm = Firm(token_lifetime_minutes=10)
    firm.lifetime = {"expires_in": 3600}
    assert (await firm.login().log_in()).lifetime == timedelta(minutes=10)


@pytest.mark.parametrize(("minutes", "seconds"), [(55, 53 * 60), (20, 18 * 60), (1, 54)])
def test_a_token_is_given_out_until_shortly_before_its_end(minutes: int, seconds: float) -> None:
    assert usable(timedelta(minutes=minutes)).total_seconds() == seconds


async def test_a_clock_of_ours_that_is_wrong_changes_no_lifetime() -> None:
    firm = Firm()
    firm.skew = HOUR
    end = firm.clock.now() + HOUR + timedelta(minutes=30)
    firm.lifetime = {"expiration_utc": end.isoformat()}

    assert (await firm.login().log_in()).lifetime == timedelta(minutes=30)


# -- where Advoware is ----------------------------------------------------------------------------


def addresses(**changed: Any) -> Addresses | None:
    return addresses_of(
        {**ADDRESSES, **changed},
        configurator_url="https://configurator.test",
        gateway_url="https://gateway.test",
    )


def test_the_firm_s_own_connector_comes_before_the_relay() -> None:
    relay, gateway = "https://relay.test:90", "https://security.test"
    assert addresses() == Addresses(relay, gateway, "relay")
    assert addresses(connectorUrl="") == Addresses(relay, gateway, "relay")
    connector = "http://kanzlei.test:8082"
    assert addresses(connectorUrl=f"{connector}/") == Addresses(connector, gateway, "connector")


def test_the_gateway_of_the_settings_holds_where_none_is_named() -> None:
    assert addresses(securityGateway=None) == Addresses(
        "https://relay.test:90", "https://gateway.test", "relay"
    )


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"relayUrl": None, "connectorUrl": ""}])
def test_an_answer_without_an_address_is_a_firm_that_nobody_knows(answer: Any) -> None:
    assert addresses_of(answer, configurator_url="https://c.test", gateway_url="https://g") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"securityGateway": "http://security.test/"},
        {"relayUrl": "http://relay.test/"},
        {"relayUrl": "https://user@relay.test/"},
        {"relayUrl": "https://relay.test/?to=https://elsewhere.test"},
        {"connectorUrl": "file:///etc/passwd"},
        {"connectorUrl": 7},
    ],
)
def test_no_password_goes_where_a_configurator_must_not_send_us(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="address"):
        addresses(**changed)


async def test_the_configurator_is_asked_by_the_code_of_the_firm_and_once_an_hour() -> None:
    firm = Firm()
    login = firm.login()

    await asyncio.gather(*(login.addresses() for _ in range(20)))
    firm.clock.seconds = 3599
    await login.addresses()
    assert [seen.params for seen in firm.asked("find_addresses")] == [{"Kanzlei": "kanzlei 7"}]

    firm.clock.seconds = 3601
    await login.addresses()
    assert len(firm.asked("find_addresses")) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Lost(arrived=False),
        of({}, 503),
        of({}),
        text(200, "<html>"),
        text(404, "Die Kanzlei ist nicht registriert."),
        of({**ADDRESSES, "securityGateway": "http://security.test"}),
    ],
)
async def test_a_configurator_of_no_use_is_stood_in_for_by_the_settings(
    answer: Answer | Lost,
) -> None:
    firm = Firm(base_url="https://base.test", security_gateway_url="https://gateway.test")
    firm.configurator = answer
    login = firm.login()

    with captured() as lines:
        for _ in range(3):
            found = await login.addresses()
    assert found == Addresses("https://base.test", "https://gateway.test", "settings")
    assert [line["level"] for line in lines] == ["warning"]
    assert len(firm.asked("find_addresses")) == 1, "it is left alone for a minute"

    firm.configurator = of(ADDRESSES)
    firm.clock.seconds = 61
    assert (await login.addresses()).source == "relay"


async def test_what_the_configurator_said_last_comes_before_the_settings() -> None:
    firm = Firm(base_url="https://base.test")
    login = firm.login()
    known = await login.addresses()

    firm.configurator = Lost(arrived=False)
    firm.clock.seconds = 4000
    assert await login.addresses() == known


async def test_a_firm_that_nobody_knows_is_told_with_what_to_correct() -> None:
    firm = Firm()
    firm.configurator = of({}, 404)
    login = firm.login()

    with pytest.raises(Unauthorized, match="ADVOWARE_KANZLEI"):
        await login.addresses()
    with pytest.raises(HeldBack, match="ADVOWARE_KANZLEI"):
        await login.addresses()
    assert len(firm.asked("find_addresses")) == 1

    firm.clock.seconds = 6
    with pytest.raises(Unauthorized):
        await login.addresses()


@pytest.mark.parametrize("answer", [of({}, 503), of({}, 429), Lost(arrived=False)])
async def test_a_configurator_that_is_down_is_no_wrong_setting(answer: Answer | Lost) -> None:
    firm = Firm()
    firm.configurator = answer
    with pytest.raises(Transient):
        await firm.login().addresses()


async def test_a_configurator_that_is_switched_off_is_never_asked() -> None:
    firm = Firm(configurator_url="off", base_url="https://base.test")

    assert (await firm.login().addresses()).api == "https://base.test"
    assert firm.transport.seen == []


async def test_an_api_that_cannot_be_reached_is_asked_for_its_address_within_a_minute() -> None:
    firm = Firm()
    login = firm.login()
    await login.addresses()

    login.doubt()
    firm.clock.seconds = 61
    await login.addresses()

    assert len(firm.asked("find_addresses")) == 2


# -- refusals -------------------------------------------------------------------------------------

LASTING = [
    ("Das Produkt 64 ist nicht freigeschaltet.", "not enabled"),
    ("Der Benutzer SB ist für das Produkt 64 nicht freigeschaltet.", "not enabled"),
    ("Falscher Name oder falsches Kennwort.", "ADVOWARE_PASSWORD"),
    ("Benutzer / Kennwort ungültig", "ADVOWARE_PASSWORD"),
]
PASSING = [
    ("Die Datenbank muster ist nicht angemeldet.", "not online"),
    ("Die Kanzlei ist nicht registriert.", "does not know"),
]


def test_every_known_sentence_has_an_example_here() -> None:
    found = [trouble(said.encode()) for said, _ in LASTING + PASSING]
    assert {known for known in found if known is not None} == set(KNOWN)


@pytest.mark.parametrize("said", ["", "Authorization has been denied", "Der Termin ist angemeldet"])
def test_other_sentences_mean_nothing(said: str) -> None:
    assert trouble(said.encode()) is None


def test_a_sentence_is_known_in_json_and_over_two_lines() -> None:
    body = b'{"message":"Benutzer / Kennwort\\r\\n ung\\u00fcltig"}'.replace(b"\\r\\n", b"\r\n")
    known = trouble(body)
    assert known is not None
    assert known.lasting


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500, 503])
@pytest.mark.parametrize(("said", "words"), LASTING)
async def test_what_stays_refused_until_somebody_acts_is_told_in_plain_words(
    said: str, words: str, status: int
) -> None:
    firm = Firm()
    firm.gateway = lambda _: text(status, said)

    with pytest.raises(Unauthorized, match=words):
        await firm.login().log_in()


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500, 503])
@pytest.mark.parametrize(("said", "words"), PASSING)
async def test_a_firm_whose_server_is_off_comes_back(said: str, words: str, status: int) -> None:
    firm = Firm()
    firm.gateway = lambda _: of({"message": said}, status)

    with pytest.raises(Transient, match=words):
        await firm.login().log_in()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (text(400, "The signature of the request is not valid."), Unauthorized),
        (text(401, ""), Unauthorized),
        (text(404, ""), Unauthorized),
        (text(429, ""), RateLimited),
        (text(408, ""), Transient),
        (text(500, "?"), Transient),
        (text(302, ""), Transient),
        (text(200, "<html>"), Transient),
        (of({}), Transient),
        (of({"access_token": ""}), Transient),
        (of({"access_token": "a\r\nb"}), Transient),
        (of([1]), Transient),
        (Lost(arrived=True), Transient),
    ],
)
async def test_an_answer_without_a_token_is_an_error(
    answer: Answer | Lost, kind: type[OutsideError]
) -> None:
    firm = Firm()
    firm.gateway = lambda _: answer

    with pytest.raises(kind):
        await firm.login().log_in()
    assert firm.logins == 1


# -- clocks ---------------------------------------------------------------------------------------


async def test_a_gateway_with_another_time_is_asked_again_by_its_own() -> None:
    firm = Firm(configurator_url="off", base_url="https://base.test")
    firm.skew = HOUR

    def gateway(seen: Seen) -> Answer:
        told = datetime.fromisoformat(seen.json["RequestTimeStamp"])
        if abs(told - (firm.clock.now() + firm.skew)) > timedelta(seconds=60):
            return text(400, "RequestTimeStamp is too far from the time of the server.")
        return of({"access_token": "token-1"})

    firm.gateway = gateway
    login = firm.login()
    with captured() as lines:
        await login.log_in()
    assert firm.logins == 2
    assert login.skew == HOUR
    assert metrics.value("bitbylaw_advoware_clock_skew_seconds") == 3600
    assert [(line["level"], line["ahead_seconds"]) for line in lines] == [("warning", 3600)]

    await login.log_in()
    assert firm.logins == 3, "now its time is known"


async def test_a_refusal_that_no_clock_explains_is_not_repeated() -> None:
    firm = Firm()
    firm.gateway = lambda _: text(400, "The signature of the request is not valid.")
    firm.skew = timedelta(seconds=3)

    with pytest.raises(Unauthorized, match="ADVOWARE_API_KEY"):
        await firm.login().log_in()
    assert firm.logins == 1


async def test_a_wrong_password_is_not_sent_twice_however_the_clocks_stand() -> None:
    firm = Firm()
    firm.gateway = lambda _: text(400, "Falscher Name oder falsches Kennwort.")
    firm.skew = HOUR

    with pytest.raises(Unauthorized, match="ADVOWARE_PASSWORD"):
        await firm.login().log_in()
    assert firm.logins == 1


async def test_a_gateway_that_asks_for_patience_is_not_asked_again_whatever_its_time() -> None:
    firm = Firm()
    firm.gateway = lambda _: of({}, 429, Retry_After="70")
    firm.skew = HOUR

    with pytest.raises(RateLimited) as asked:
        await firm.login().log_in()
    assert asked.value.retry_after == timedelta(seconds=70)
    assert firm.logins == 1


# -- one login for everybody ----------------------------------------------------------------------


async def test_five_hundred_calls_of_three_processes_ask_once() -> None:
    firm = Firm()
    processes = [firm.tokens() for _ in range(3)]

    found = await asyncio.gather(*(processes[n % 3].current() for n in range(500)))

    assert {token.value for token in found} == firm.good
    assert firm.logins == 1


async def test_a_token_that_came_between_the_look_and_the_turn_is_taken() -> None:
    firm = Firm()
    mine, other = firm.tokens(), firm.tokens()
    look, looks = firm.store.read, []

    async def slow_look() -> Kept | None:
        seen = await look()
        looks.append(seen)
        if len(looks) == 1:  # while the answer is on its way, another comes back from its login
            await other.current()
        return seen

    firm.store.read = slow_look  # type: ignore[method-assign]  # the test's own store

    assert (await mine.current()).value in firm.good
    assert firm.logins == 1


async def test_a_revoked_token_is_replaced_once_and_older_ones_get_the_new_one() -> None:
    firm = Firm()
    processes = [firm.tokens() for _ in range(3)]
    old = await asyncio.gather(*(tokens.current() for tokens in processes))

    new = await asyncio.gather(
        *(processes[n % 3].instead_of(old[n % 3]) for n in range(300)),
    )
    assert len({token.value for token in new}) == 1
    assert new[0].value != old[0].value
    assert firm.logins == 2

    late = await processes[0].instead_of(old[0])
    assert late.value == new[0].value
    assert firm.logins == 2


async def test_two_tokens_that_were_refused_are_both_out_of_use() -> None:
    firm = Firm()
    tokens, other = firm.tokens(), firm.tokens()
    first = await tokens.current()
    second = await tokens.instead_of(first)

    # both callers come back at once, the one with the older token last
    third, again = await asyncio.gather(tokens.instead_of(second), tokens.instead_of(first))

    assert third.value == again.value
    assert third.value not in (first.value, second.value)
    assert firm.logins == 3
    assert (await other.current()).value == third.value


async def test_a_token_is_replaced_before_its_end() -> None:
    firm = Firm()
    tokens = firm.tokens()
    await tokens.current()

    firm.clock.seconds = 53 * 60 - 1
    await tokens.current()
    assert firm.logins == 1

    firm.clock.seconds = 53 * 60 + 1
    await tokens.current()
    assert firm.logins == 2


async def test_without_the_store_each_process_logs_in_by_itself() -> None:
    firm = Firm()
    firm.store.away = True
    processes = [firm.tokens() for _ in range(3)]

    found = await asyncio.gather(*(processes[n % 3].current() for n in range(60)))

    assert len({token.value for token in found}) == 3
    assert firm.logins == 3


async def test_a_call_that_cannot_be_sent_twice_looks_for_a_newer_token() -> None:
    firm = Firm()
    mine, other = firm.tokens(), firm.tokens()
    old = await mine.current()
    new = await other.instead_of(await other.current())

    assert (await mine.current()).value == old.value, "a look costs something"
    assert (await mine.current(compared=True)).value == new.value
    firm.store.away = True
    assert (await mine.current(compared=True)).value == new.value


async def test_all_who_wait_get_the_error_of_the_one_who_asked() -> None:
    firm = Firm()
    firm.gateway = lambda _: of({}, 503)
    tokens = firm.tokens()

    found = await asyncio.gather(*(tokens.current() for _ in range(50)), return_exceptions=True)

    assert {type(one) for one in found} == {Transient}
    assert firm.logins == 1


async def test_every_login_is_counted_by_its_end_and_what_was_not_sent_is_none() -> None:
    def counted() -> dict[str, float]:
        name = "bitbylaw_advoware_logins_total"
        return {end: metrics.value(name, result=end) for end in ("granted", "refused", "failed")}

    firm = Firm()
    answers = [of({}, 503), text(400, "Falscher Name oder falsches Kennwort.")]
    firm.gateway = lambda _: answers.pop(0)
    tokens, before = firm.tokens(), counted()
    for kind in (Transient, Unauthorized, HeldBack):
        with pytest.raises(kind):
            await tokens.current()
    firm.gateway, firm.clock.seconds = None, 56
    await tokens.current()

    after = counted()
    assert {end: after[end] - before[end] for end in after} == dict.fromkeys(after, 1)


async def test_a_login_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advoware_auth, "LOGIN_SECONDS", 0.02)
    firm = Firm()
    login = firm.login()

    async def never() -> Grant:
        await asyncio.Event().wait()
        raise AssertionError("nothing rings")

    login.log_in = never  # type: ignore[method-assign]  # a gateway that takes for ever
    with pytest.raises(TimedOut):
        await Tokens(login, firm.store, firm.clock).current()
    assert not firm.store.busy


async def test_refused_credentials_are_left_alone_by_every_process() -> None:
    firm = Firm()
    firm.gateway = lambda _: text(400, "Falscher Name oder falsches Kennwort.")
    processes = [firm.tokens() for _ in range(3)]

    found = await asyncio.gather(
        *(processes[n % 3].current() for n in range(30)), return_exceptions=True
    )
    assert {type(one) for one in found} == {Unauthorized, HeldBack}
    assert all("ADVOWARE_PASSWORD" in str(one) for one in found)
    assert firm.logins == 1, "ten wrong ones in a row might lock the user"

    firm.gateway = None
    firm.clock.seconds = 56
    await processes[1].current()
    assert firm.logins == 2


async def test_a_caller_who_gives_up_does_not_take_the_login_away_from_the_others() -> None:
    firm = Firm()
    tokens = firm.tokens()
    first = asyncio.ensure_future(tokens.current())
    second = asyncio.ensure_future(tokens.current())
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).value in firm.good
    assert firm.logins == 1


async def test_a_holder_of_the_turn_that_never_comes_back_is_waited_for_in_vain_but_not_for_ever() -> (
    None
):
    firm = Firm()
    firm.store.busy = True

    with pytest.raises(Transient, match="none comes to an end"):
        await firm.tokens().current()
    assert firm.clock.seconds < 60


async def test_a_probe_gets_its_token_where_the_others_are_held_back() -> None:
    firm = Firm()
    circuits = Circuits(firm.clock)
    guarded = GuardedTransport(firm.transport, circuits=circuits, clock=firm.clock)
    client = firm.client(guarded)
    circuits.declare("advoware", client.check)
    firm.gateway = lambda _: text(400, "Falscher Name oder falsches Kennwort.")

    with pytest.raises(Unauthorized):
        await client.check()
    assert circuits.of("advoware").state in (State.OPEN, State.PROBING)
    with pytest.raises(HeldBack):
        await client.check()

    firm.gateway = None
    async with asyncio.timeout(5):
        while circuits.of("advoware").state is not State.RAMPING:  # noqa: ASYNC110 - the clock is the test's
            await asyncio.sleep(0)
    await circuits.close()
    assert firm.logins >= 2


# -- what nobody may see --------------------------------------------------------------------------


async def test_no_error_no_line_and_no_repr_tells_password_key_or_token() -> None:
    firm = Firm()
    tokens = firm.tokens()
    with captured("debug") as lines:
        token = await tokens.current()
        firm.gateway = lambda seen: Answer(400, seen.body)  # an error page that repeats all
        with pytest.raises(Unauthorized) as refused:
            await tokens.instead_of(token)

    shown = "\n".join(
        [*map(str, lines), str(refused.value), repr(refused.value.__dict__), repr(token)]
        + [repr(seen.request) for seen in firm.transport.seen]
    )
    for secret in (PASSWORD, API_KEY, token.value, "Bearer"):
        assert secret not in shown
    assert secret_free(metrics.render()[0].decode())


def secret_free(page: str) -> bool:
    return not any(secret in page for secret in (PASSWORD, API_KEY, "token-1"))


def test_the_digest_of_the_credentials_is_another_for_another_database_or_password() -> None:
    same, again = Firm().login().credentials, Firm().login().credentials
    others = {
        Firm(**changed).login().credentials
        for changed in ({"database": "test"}, {"password": "x"}, {"user": "AI"}, {"app_id": "b"})
    }
    assert same == again
    assert len({same, *others}) == 5
    assert PASSWORD not in same


# -- whatever comes in ----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.sampled_from(["relayUrl", "connectorUrl", "securityGateway", "RELAYURL"])


@given(st.dictionaries(NAMED, JSON | st.text().map("https://{}".format)) | JSON)
def test_an_address_is_used_only_where_it_is_one_over_tls(answer: Any) -> None:
    try:
        found = addresses_of(
            answer, configurator_url="https://c.test", gateway_url="https://gateway.test"
        )
    except ValueError:
        return
    if found is not None and found.source == "relay":
        assert found.api.startswith("https://")
    if found is not None:
        assert found.security_gateway.startswith("https://")


@given(st.dictionaries(st.sampled_from(["expiration_utc", "expires_in"]), JSON))
def test_a_lifetime_is_always_one(answer: dict[str, Any]) -> None:
    most = timedelta(minutes=55)
    found = lifetime_of(answer, now=NOW, most=most)
    assert found > timedelta()
    assert timedelta() < usable(min(found, most)) < most


@given(st.binary(max_size=300))
def test_any_bytes_may_be_looked_at_for_a_known_sentence(body: bytes) -> None:
    assert trouble(body) is None or trouble(body) in KNOWN


def test_the_lock_outlives_the_login_it_guards() -> None:
    assert advoware_auth.LOCK_SECONDS > advoware_auth.LOGIN_SECONDS
