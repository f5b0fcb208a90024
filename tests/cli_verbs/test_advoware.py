"""`bbl advoware` beside a simulated firm: what it says, what it sends, and what it never shows."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_cli.output import Exit
from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer
from cli_verbs.answers import check
from cli_verbs.cases import Case
from cli_verbs.typist import Typed, bbl

OK, FINDING, USAGE, UNREACHABLE, REFUSED = Exit
PASSWORD = "geheimes-kennwort-der-kanzlei"

pytestmark = pytest.mark.timeout(300)


class Desk:
    """Where `bbl` is typed, with a firm within reach."""

    def __init__(self, sim: Advoware, url: str, folder: Path) -> None:
        self.sim = sim
        self.folder = folder
        self.env = {
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "ADVOWARE_CONFIGURATOR_URL": f"{url}/AdvonetConfigurator/api/Url",
            "ADVOWARE_APP_ID": sim.firm.app_id,
            "ADVOWARE_API_KEY": sim.firm.api_key,
            "ADVOWARE_KANZLEI": sim.firm.kanzlei,
            "ADVOWARE_DATABASE": sim.firm.database,
            "ADVOWARE_USER": "SB",
            "ADVOWARE_PASSWORD": sim.firm.passwords["SB"],
            "COLUMNS": "200",
        }

    async def type(self, case: Case, **changed: str) -> Any:
        """Type it, check the answer as every answer is, and return its document."""
        typed = await self.typed(*case.command({}), **changed)
        check(case, typed, {})
        return json.loads(typed.out) if case.json else None

    async def typed(self, *words: str, **changed: str) -> Typed:
        """Type these words."""
        env = self.env | changed
        typed = await asyncio.to_thread(lambda: bbl(*words, env=env, folder=self.folder))
        for secret in (env["ADVOWARE_PASSWORD"], env["ADVOWARE_API_KEY"]):
            assert secret not in typed.out + typed.err
        return typed

    @property
    def asked(self) -> list[str]:
        """What came in but for the way to a token."""
        names = (call.operation for call in self.sim.requests)
        return [name for name in names if name not in ("configurator", "token")]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    sim = Advoware(SimClock.real())
    sample_firm(sim)
    async with SimServer(sim) as server:
        yield Desk(sim, server.url, tmp_path)


async def test_a_login_that_works_is_said_to_and_the_token_is_not_shown(desk: Desk) -> None:
    report = await desk.type(Case("advoware token", "", OK, told=('"works": true',)))

    assert (report["user"], report["source"]) == ("SB", "relay")
    assert report["cache"] == {
        "where": "127.0.0.1:1, database 0",
        "state": "away",
        "since": None,
        "good_until": None,
        "refused": "",
    }
    words = await desk.typed("advoware", "token")
    assert "A login works as SB." in words.out
    assert "Redis does not answer" in words.out
    assert "access" not in words.out
    assert desk.asked == []


async def test_a_login_that_is_refused_is_a_finding_in_plain_words(desk: Desk) -> None:
    case = Case("advoware token", "", FINDING, told=("ADVOWARE_PASSWORD",))
    report = await desk.type(case, ADVOWARE_PASSWORD=PASSWORD)
    assert report["works"] is False

    desk.sim.switch({"licence": "product"})
    report = await desk.type(Case("advoware token", "", FINDING, told=("not enabled",)))
    assert report["expires"] is None


async def test_a_firm_that_nobody_knows_is_refused(desk: Desk) -> None:
    says = ("advoware answered 404", "ADVOWARE_KANZLEI", "bbl advoware token")
    await desk.type(Case("advoware token", "", REFUSED, says), ADVOWARE_KANZLEI="falsch")


async def test_a_firm_whose_server_is_off_cannot_be_reached(desk: Desk) -> None:
    desk.sim.switch({"connector": "offline"})
    says = ("not online", "its server is off", "bbl doctor")
    await desk.type(Case("advoware token", "", UNREACHABLE, says))
    await desk.type(Case("advoware call", "GET employees", UNREACHABLE, says))


async def test_what_is_read_is_shown_without_being_asked_twice(desk: Desk) -> None:
    answer = await desk.type(
        Case("advoware call", "GET employees --query limit=2", OK, told=("kuerzel",))
    )
    assert (answer["status"], len(answer["body"])) == (200, 2)
    words = await desk.typed("advoware", "call", "get", "employees")
    assert words.exit == OK
    assert "Özdemir" in words.out


async def test_what_writes_is_sent_with_yes_and_only_then(desk: Desk) -> None:
    (desk.folder / "neu.json").write_text('{"name": "Neu"}', "utf-8")
    words = "POST Beteiligte --body neu.json"
    plan = await desk.type(Case("advoware call", f"{words} --plan", OK, told=("POST",)))
    assert plan["body_bytes"] == 15
    assert len(desk.sim.requests) == 0

    answer = await desk.type(Case("advoware call", f"{words} --yes", OK, told=("betNr",)))
    assert answer["status"] in (200, 201)
    assert len(desk.sim.records("Beteiligte", name="Neu")) == 1


async def test_a_write_without_an_answer_may_have_been_done(desk: Desk) -> None:
    (desk.folder / "neu.json").write_text('{"name": "Neu"}', "utf-8")
    desk.sim.faults.plan("reset_after", method="POST", path="Beteiligte")
    says = ("did not answer to call_post", "it may have been done", "look before")
    words = "POST Beteiligte --body neu.json --yes"
    await desk.type(Case("advoware call", words, UNREACHABLE, says))
    assert len(desk.sim.records("Beteiligte", name="Neu")) == 1


async def test_a_call_that_was_not_done_is_a_finding_with_its_answer(desk: Desk) -> None:
    answer = await desk.type(
        Case("advoware call", "DELETE Beteiligte/104860 --yes", FINDING, told=('"status": 403',))
    )
    assert answer["body"]["message"]


async def test_a_login_that_is_refused_is_told_by_a_call(desk: Desk) -> None:
    says = ("ADVOWARE_PASSWORD", "from the environment", "bbl advoware token")
    case = Case("advoware call", "GET employees", REFUSED, says)
    await desk.type(case, ADVOWARE_PASSWORD=PASSWORD)


async def test_an_answer_is_written_to_a_new_file_that_its_owner_alone_may_read(desk: Desk) -> None:
    answer = await desk.type(
        Case("advoware call", "GET employees --into a.json", OK, told=("a.json",))
    )
    file = desk.folder / "a.json"
    assert answer["body"] is None
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(file.read_bytes())) == 4
