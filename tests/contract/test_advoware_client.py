"""The Advoware client over real sockets: the simulated firm checks every login by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from bitbylaw_common.circuits import FAILED_RECORDS, Circuits, working_on
from bitbylaw_common.clients.advoware import REPEATABLE_BYTES, Advoware
from bitbylaw_common.clients.advoware_auth import Login, NoStore, Tokens
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import (
    Conflict,
    HeldBack,
    Invalid,
    NotFound,
    OutsideError,
    TimedOut,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.settings import AdvowareSettings
from bitbylaw_simulators.advoware import Advoware as SimulatedAdvoware
from bitbylaw_simulators.advoware import Firm
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer


@dataclass
class Office:
    """One firm, and our client of it."""

    sim: SimulatedAdvoware
    url: str
    client: Advoware
    login: Login
    settings: AdvowareSettings
    mueller: int

    def count(self, operation: str) -> int:
        return sum(call.operation == operation for call in self.sim.requests)

    def switch(self, **quirks: Any) -> None:
        self.sim.switch(quirks)


def settings_of(firm: Firm, url: str, **changed: Any) -> AdvowareSettings:
    values = {
        "configurator_url": f"{url}/AdvonetConfigurator/api/Url",
        "security_gateway_url": f"{url}/security",
        "base_url": f"{url}/relay",
        "app_id": firm.app_id,
        "api_key": firm.api_key,
        "kanzlei": firm.kanzlei,
        "database": firm.database,
        "user": "SB",
        "password": firm.passwords["SB"],
        "timeout_seconds": 5,
    }
    return AdvowareSettings(**{**values, **changed})


@asynccontextmanager
async def an_office(**changed: Any) -> AsyncIterator[Office]:
    sim = SimulatedAdvoware(SimClock.real())
    made = sample_firm(sim)
    clock = SystemClock()
    async with SimServer(sim) as server, aiohttp_transport(clock=clock) as transport:
        settings = settings_of(sim.firm, server.url, **changed)
        login = Login(transport, settings, clock)
        tokens = Tokens(login, NoStore(), clock)
        client = Advoware(
            transport,
            tokens=tokens,
            path_prefix=settings.path_prefix,
            clock=clock,
            timeout_seconds=settings.timeout_seconds,
        )
        try:
            yield Office(sim, server.url, client, login, settings, made.beteiligte["Müller"])
        finally:
            await tokens.close()


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with an_office() as office:
        yield office


# -- logging in -----------------------------------------------------------------------------------


async def test_the_whole_way_in_is_accepted_by_a_gateway_that_checks_it(office: Office) -> None:
    await office.client.check()

    assert [call.operation for call in office.sim.requests][:2] == ["configurator", "token"]
    assert office.count("token") == 1
    assert (await office.login.addresses()).source == "relay"


async def test_the_connector_is_used_where_the_configurator_names_one(office: Office) -> None:
    office.switch(connector_url=True)
    await office.client.check()
    assert office.sim.requests[-1].path.startswith("/connector/")


@pytest.mark.parametrize("slashes", [True, False])
@pytest.mark.parametrize("expiry", ["expiration_utc", "expires_in", "both", "none"])
async def test_a_token_is_read_in_whichever_form_its_end_comes(
    office: Office, expiry: str, slashes: bool
) -> None:
    office.switch(token_expiry=expiry, token_seconds=1800, trailing_slashes=slashes)
    minutes = (await office.login.log_in()).lifetime.total_seconds() / 60
    assert round(minutes) == (55 if expiry == "none" else 30)


@pytest.mark.parametrize("skew", [-3600, 3600])
async def test_clocks_that_differ_keep_nobody_out(office: Office, skew: int) -> None:
    office.switch(clock_skew_seconds=skew, token_seconds=1800)

    grant = await office.login.log_in()

    assert office.login.skew is not None
    assert abs(office.login.skew.total_seconds() - skew) <= 2
    assert round(grant.lifetime.total_seconds() / 60) == 30


@pytest.mark.parametrize(
    ("quirks", "changed", "kind", "words"),
    [
        ({"licence": "product"}, {}, Unauthorized, "not enabled"),
        ({"licence": "user"}, {}, Unauthorized, "not enabled"),
        ({}, {"password": "falsch"}, Unauthorized, "ADVOWARE_PASSWORD"),
        ({"login_text": "user"}, {"password": "falsch"}, Unauthorized, "ADVOWARE_PASSWORD"),
        ({}, {"api_key": "ZmFsc2No"}, Unauthorized, "ADVOWARE_API_KEY"),
        ({}, {"app_id": "falsch"}, Unauthorized, "ADVOWARE_APP_ID"),
        ({}, {"database": "falsch"}, Transient, "ADVOWARE_DATABASE"),
        ({"connector": "offline"}, {}, Transient, "not online"),
        ({"connector": "unregistered"}, {}, Transient, "does not know"),
    ],
)
@pytest.mark.parametrize("errors", ["text", "json"])
async def test_each_refusal_of_a_login_is_told_in_plain_words(
    quirks: dict[str, Any],
    changed: dict[str, Any],
    kind: type[OutsideError],
    words: str,
    errors: str,
) -> None:
    async with an_office(**changed) as office:
        office.switch(gateway_errors=errors, **quirks)
        with pytest.raises(kind, match=words) as refused:
            await office.client.check()
    assert "falsch" not in str(refused.value)


@pytest.mark.parametrize("unknown", ["404", "nulls"])
async def test_a_firm_that_the_configurator_does_not_know_is_told(unknown: str) -> None:
    async with an_office(kanzlei="falsch", base_url=None) as office:
        office.switch(unknown_firm=unknown)
        with pytest.raises(Unauthorized, match="ADVOWARE_KANZLEI"):
            await office.client.check()


# -- a token that ends ----------------------------------------------------------------------------


async def test_a_call_whose_token_was_revoked_succeeds_by_a_new_one(office: Office) -> None:
    await office.client.check()
    office.sim.gateway.revoke()

    assert await office.client.employees()
    assert office.count("token") == 2


async def test_a_write_whose_token_was_revoked_is_done_once(office: Office) -> None:
    await office.client.check()
    office.sim.gateway.revoke()

    await office.client.create_kommunikation(office.mueller, {"tlf": "1", "kommKz": 3})

    found = [r for r in office.sim.records("Kommunikationen") if r["tlf"] == "1"]
    assert len(found) == 1


async def test_a_firm_with_one_token_a_user_is_no_trouble(office: Office) -> None:
    office.switch(single_token=True)
    await office.client.check()
    await office.login.log_in()  # as an operator does, or another program
    await office.client.check()


# -- resources ------------------------------------------------------------------------------------


async def test_a_party_is_read_changed_and_read_again(office: Office) -> None:
    party = await office.client.beteiligter(office.mueller)
    assert (party["NAME"], party["kommunikation"][0]["kommKz"]) == ("Müller", 0)

    await office.client.update_beteiligter(office.mueller, party.overlaid({"titel": "Dr."}))

    again = await office.client.beteiligter(office.mueller)
    assert again["titel"] == "Dr."
    assert again.row_id != party.row_id
    with pytest.raises(Conflict):
        await office.client.update_beteiligter(office.mueller, party.overlaid({"titel": "x"}))


@pytest.mark.parametrize("stale", ["409", "400", "500"])
async def test_an_old_version_is_a_conflict_by_whichever_status(office: Office, stale: str) -> None:
    office.switch(stale_row_id=stale)
    party = await office.client.beteiligter(office.mueller)
    await office.client.update_beteiligter(office.mueller, party)
    with pytest.raises(Conflict):
        await office.client.update_beteiligter(office.mueller, party)


async def test_a_party_is_created_with_its_number_and_version(office: Office) -> None:
    made = await office.client.create_beteiligter({"name": "Neu", "vorname": "Änne"})
    assert (await office.client.beteiligter(made["betNr"]))["vorname"] == "Änne"
    assert len(made.row_id) == 40


@pytest.mark.parametrize(
    "quirks",
    [
        {},
        {"single_record": "object", "key_case": "pascal"},
        {"list_envelope": "data"},
        {"path_prefix": "advonet"},
    ],
)
async def test_resources_are_read_in_whichever_form_they_come(
    office: Office, quirks: dict[str, Any]
) -> None:
    office.switch(**quirks)
    client = office.client

    assert {row["kuerzel"] for row in await client.employees()} >= {"SB", "AI", "RO"}
    party = await client.beteiligter(office.mueller)
    assert party["betNr"] == office.mueller
    (address,) = await client.adressen(office.mueller)
    assert address["ort"] == "Hannover"
    before = await client.bankverbindungen(office.mueller)
    await client.create_bankverbindung(office.mueller, {"iban": "DE02120300000000202051"})
    assert len(await client.bankverbindungen(office.mueller)) == len(before) + 1


async def test_what_may_not_be_deleted_or_changed_is_refused_for_good(office: Office) -> None:
    row = await office.client.create_kommunikation(office.mueller, {"tlf": "1", "kommKz": 3})
    path = f"Beteiligte/{office.mueller}/Kommunikationen/{row['id']}"
    async with office.client.call("DELETE", path) as answer:
        assert answer.status == 403
    changed = await office.client.update_kommunikation(
        office.mueller, row["id"], {"tlf": "2", "kommKz": 4}
    )
    assert changed is not None
    assert (changed["tlf"], changed["kommKz"]) == ("2", 3)
    office.switch(read_only_fields="400")
    (address,) = await office.client.adressen(office.mueller)
    with pytest.raises(Invalid):
        await office.client.update_adresse(office.mueller, address["id"], {"land": "AT"})


async def test_a_termin_is_made_changed_and_deleted(office: Office) -> None:
    client = office.client
    values = {
        "datum": "2026-03-10",
        "datumBis": "2026-03-10",
        "uhrzeitVon": "09:00:00",
        "uhrzeitBis": "10:00:00",
        "text": "Meeting",
        "anwalt": "SB",
    }
    for created in ("key", "bare", "row"):
        office.switch(created_termin=created)
        number = await client.create_termin(values)
        assert (await client.termin(number))["text"] == "Meeting"

    read = await client.termin(number)
    await client.update_termin(number, read.overlaid({"uhrzeitBis": "11:00:00"}))
    assert (await client.termin(number))["uhrzeitBis"] == "11:00:00"

    day = date(2026, 3, 10)
    found = await client.termine(kuerzel="SB", start=day, end=day)
    assert {row["frNr"] for row in found} >= {number}

    assert await client.delete_termin(number) is True
    assert await client.delete_termin(number) is False
    with pytest.raises(NotFound):
        await client.termin(number)


async def test_a_number_that_is_ignored_never_gives_another_termin(office: Office) -> None:
    office.switch(ignored_filters=["frnr"])
    with pytest.raises(OutsideError):
        await office.client.termin(999_999)


@pytest.mark.parametrize("status", ["503", "500", "502", "200"])
@pytest.mark.parametrize("shape", ["message", "text"])
async def test_a_firm_that_goes_away_is_an_outage_however_it_is_told(
    office: Office, status: str, shape: str
) -> None:
    await office.client.check()
    office.switch(connector="offline", offline_status=status, error_shape=shape)
    with pytest.raises(Transient, match="not online"):
        await office.client.employees()
    with pytest.raises(Transient, match="not online"):
        async with office.client.call("GET", "Beteiligte"):
            pass


async def test_a_firm_that_does_not_answer_in_time_is_told_apart() -> None:
    async with an_office(timeout_seconds=0.4) as office:
        await office.client.check()
        office.switch(relay_seconds=5)
        with pytest.raises(TimedOut):
            async with office.client.call("POST", "Termine", body=b"{}"):
                pass


async def test_a_firm_that_was_away_is_asked_again_once_a_probe_finds_it_back() -> None:
    async with an_office() as office:
        clock = SystemClock()
        circuits = Circuits(clock)
        async with aiohttp_transport(clock=clock) as transport:
            guarded = GuardedTransport(transport, circuits=circuits, clock=clock)
            tokens = Tokens(Login(guarded, office.settings, clock), NoStore(), clock)
            prefix = office.settings.path_prefix
            client = Advoware(guarded, tokens=tokens, path_prefix=prefix, clock=clock)
            circuits.declare("advoware", client.check)
            circuit = circuits.of("advoware")

            office.switch(connector="offline")
            for number in range(FAILED_RECORDS):
                with working_on(number), pytest.raises(Transient):
                    await client.employees()
            with pytest.raises(HeldBack):
                await client.employees()
            sent = len(office.sim.requests)

            office.switch(connector="online")
            async with asyncio.timeout(20):
                while circuit.room == 0:  # noqa: ASYNC110 - a probe rings no bell
                    await asyncio.sleep(0.05)
            assert await client.employees()
            assert len(office.sim.requests) > sent
            await circuits.close()
            await tokens.close()


# -- streams --------------------------------------------------------------------------------------


async def test_a_body_of_any_length_goes_out_in_pieces(office: Office) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"tlf": "1", "kommKz": 3, "bemerkung": "'
        for _ in range(3):
            yield b"x" * REPEATABLE_BYTES
        yield b'"}'

    path = f"Beteiligte/{office.mueller}/Kommunikationen"
    async with office.client.call("POST", path, body=pieces()) as answer:
        assert answer.status in (200, 201)
        await answer.read()
    (found,) = [r for r in office.sim.records("Kommunikationen") if r["tlf"] == "1"]
    assert len(found["bemerkung"]) == 3 * REPEATABLE_BYTES


async def test_a_query_arrives_as_it_was_sent(office: Office) -> None:
    async with office.client.call("GET", "employees", query=(("limit", "2"),)) as answer:
        assert answer.status == 200
        assert b"kuerzel" in await answer.read()
    assert office.sim.requests[-1].path == "/relay/api/v1/advonet/employees"
