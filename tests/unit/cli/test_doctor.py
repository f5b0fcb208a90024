import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from bitbylaw_cli import checkup as module
from bitbylaw_cli.checkup import Check, Checkup, checkup
from bitbylaw_cli.connection import Environment
from bitbylaw_cli.main import build
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.kafka.admin import TopicChange
from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.http import SimServer
from bitbylaw_simulators.samples import nine_webhooks
from bitbylaw_simulators.xai import Xai

HOOKS = "https://hooks.kanzlei.example"


class Kafka:
    """A Kafka whose topics differ as the test says, or that is away."""

    def __init__(self) -> None:
        self.changes: list[TopicChange] = []
        self.away = False

    async def plan(self, _: Any) -> list[TopicChange]:
        return self.changes

    @asynccontextmanager
    async def open(self, env: Environment) -> AsyncIterator["Kafka"]:
        if self.away:
            raise CommandError(Exit.UNREACHABLE, "Kafka does not answer")
        yield self


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()
    monkeypatch.setattr(module, "open_admin", kafka.open)
    return kafka


@asynccontextmanager
async def redis(password: str = "") -> AsyncIterator[str]:
    """As much of Redis as a check asks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        admitted = not password
        while words := await command(reader):
            if words[0] == b"AUTH":
                admitted = words[-1] == password.encode()
                writer.write(b"+OK\r\n" if admitted else b"-WRONGPASS invalid\r\n")
            else:
                writer.write(b"+PONG\r\n" if admitted else b"-NOAUTH Authentication required.\r\n")
        writer.close()

    async def command(reader: asyncio.StreamReader) -> list[bytes]:
        try:
            count = int((await reader.readuntil(b"\r\n"))[1:])
            words = []
            for _ in range(count):
                size = int((await reader.readuntil(b"\r\n"))[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
        except asyncio.IncompleteReadError:
            return []
        return words

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def system(**more: str) -> AsyncIterator[dict[str, str]]:
    """The settings of a system in which everything answers."""
    crm, xai = EspoCRM(SimClock.real()), Xai(SimClock.real())
    nine_webhooks(crm, HOOKS)
    async with SimServer(crm) as left, SimServer(xai) as right, redis() as address:
        yield {
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "REDIS_URL": f"redis://{address}/0",
            "ESPOCRM_API_BASE_URL": f"{left.url}/api/v1",
            "ESPOCRM_API_KEY": str(crm.api_user.api_key),
            "ESPOCRM_WEBHOOK_BASE_URL": HOOKS,
            "XAI_FILES_URL": right.url,
            "XAI_MANAGEMENT_URL": right.url,
            "XAI_API_KEY": xai.api_key,
            "XAI_MANAGEMENT_KEY": xai.management_key,
            "BBL_DIGEST_KEY": "a key of sixteen bytes",
            "HTTP_PORT": "9",
            **more,
        }


async def checked(env: dict[str, str]) -> dict[str, Check]:
    found = await checkup(Environment(env, "a test"))
    return {check.what: check for check in found.checks}


async def test_where_everything_answers_nothing_is_found(kafka: Kafka) -> None:
    async with system() as env:
        found = await checked(env)

    outside = ("settings", "Kafka", "topics", "Redis", "EspoCRM", "clock of EspoCRM", "xAI")
    assert {what: found[what].state for what in outside} == dict.fromkeys(outside, "ok")
    assert found["webhooks of EspoCRM"].state == "ok"
    assert found["ingest"].state == "unknown"


async def test_webhooks_that_do_not_come_here_are_a_finding(kafka: Kafka) -> None:
    async with system(ESPOCRM_WEBHOOK_BASE_URL="https://other.example") as env:
        found = await checked(env)
        unbelieved = await checked(
            env | {"ESPOCRM_WEBHOOK_BASE_URL": HOOKS, "ESPOCRM_WEBHOOK_SECRETS": "another=secret"}
        )

    assert found["webhooks of EspoCRM"].state == "finding"
    assert "posts to another address, and 8 more" in found["webhooks of EspoCRM"].found
    assert "bbl espocrm webhooks plan" in found["webhooks of EspoCRM"].remedy
    assert "ESPOCRM_WEBHOOK_SECRETS" in unbelieved["webhooks of EspoCRM"].found


async def test_every_wrong_key_is_named(kafka: Kafka) -> None:
    async with system(ESPOCRM_API_KEY="falsch-falsch", XAI_API_KEY="falsch-falsch") as env:
        found = await checked(env)
        other = await checked(
            env | {"XAI_API_KEY": "xai-simulated-api-key", "XAI_MANAGEMENT_KEY": "falsch-falsch"}
        )

    assert found["EspoCRM"].state == found["xAI"].state == "finding"
    assert "ESPOCRM_API_KEY" in found["EspoCRM"].found
    assert "XAI_API_KEY" in found["xAI"].found
    assert "XAI_MANAGEMENT_KEY" in other["xAI"].found
    assert not any("falsch" in f"{check}" for check in (*found.values(), *other.values()))


async def test_what_does_not_answer_is_found_with_its_address(kafka: Kafka, nobody: str) -> None:
    kafka.away = True
    away = {"REDIS_URL": f"redis://{nobody}/0", "ESPOCRM_API_BASE_URL": f"http://{nobody}/api/v1"}
    async with system(**away) as env:
        found = await checked(env)

    assert found["Kafka"].found == "does not answer at 127.0.0.1:1"
    assert found["Redis"].found == f"does not answer at {nobody}"
    assert found["EspoCRM"].found == f"does not answer at http://{nobody}/api/v1"
    assert found["xAI"].state == "ok"


@pytest.fixture
def nobody() -> Iterator[str]:
    with socket.socket() as held:  # bound, never listening
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_topics_that_differ_are_found(kafka: Kafka) -> None:
    kafka.changes = [TopicChange("vmh.document.create", "create", "12 partitions")]
    async with system() as env:
        found = await checked(env)

    assert found["topics"].state == "finding"
    assert "vmh.document.create" in found["topics"].found
    assert "bbl topics apply" in found["topics"].remedy


@pytest.mark.parametrize(
    ("login", "state"), [("", "finding"), (":geheim@", "ok"), (":falsch@", "finding")]
)
async def test_redis_is_asked_with_its_password(login: str, state: str, kafka: Kafka) -> None:
    async with redis("geheim") as address, system(REDIS_URL=f"redis://{login}{address}/1") as env:
        found = await checked(env)

    assert found["Redis"].state == state
    assert "geheim" not in found["Redis"].found


async def test_every_setting_that_does_not_fit_is_a_line_and_the_rest_is_asked(
    kafka: Kafka,
) -> None:
    async with system(LOG_LEVEL="loud", KAFKA_BOOTSTRAP="kafka:1") as env:
        del env["BBL_DIGEST_KEY"]
        checks = (await checkup(Environment(env, "a test"))).checks

    settings = [check.found for check in checks if check.what == "settings"]
    assert [found.partition(" ")[0].partition("=")[0] for found in settings] == [
        "KAFKA_BOOTSTRAP",
        "LOG_LEVEL",
        "BBL_DIGEST_KEY",
    ]
    assert next(check for check in checks if check.what == "Kafka").state == "ok"


@pytest.mark.parametrize(
    ("env", "state"),
    [
        ({}, "ok"),
        ({"ESPOCRM_WEBHOOK_SECRETS": "65f0=geheim"}, "ok"),
        ({"INGEST_UNSIGNED": "reject"}, "finding"),
        ({"HTTP_HOST": "192.0.2.1", "INGEST_UNSIGNED": "accept"}, "finding"),
        ({"HTTP_HOST": "192.0.2.1"}, "finding"),
    ],
)
async def test_who_may_post_webhooks_is_judged(
    env: dict[str, str], state: str, kafka: Kafka
) -> None:
    async with system(**env) as settings:
        assert (await checked(settings))["webhooks"].state == state


@pytest.mark.parametrize(("seconds", "count"), [(0, 0), (4, 0), (30, 1), (-30, 1)])
def test_a_clock_that_is_off_is_found(seconds: float, count: int) -> None:
    found = list(module._clock("EspoCRM", timedelta(seconds=seconds)))

    assert sum(check.state == "finding" for check in found) == count


@asynccontextmanager
async def firm(**changed: str) -> AsyncIterator[tuple[Advoware, dict[str, str]]]:
    """A system with an Advoware in which everything answers."""
    sim = Advoware(SimClock.real())
    sample_firm(sim)
    async with SimServer(sim) as server:
        names = {
            "ADVOWARE_CONFIGURATOR_URL": f"{server.url}/AdvonetConfigurator/api/Url",
            "ADVOWARE_APP_ID": sim.firm.app_id,
            "ADVOWARE_API_KEY": sim.firm.api_key,
            "ADVOWARE_KANZLEI": sim.firm.kanzlei,
            "ADVOWARE_DATABASE": sim.firm.database,
            "ADVOWARE_USER": "SB",
            "ADVOWARE_PASSWORD": sim.firm.passwords["SB"],
        }
        async with system(**{**names, **changed}) as env:
            yield sim, env


async def test_where_advoware_lets_us_in_nothing_is_found(kafka: Kafka) -> None:
    async with firm() as (_, env):
        found = await checked(env)
    told = ("Advoware's addresses", "Advoware's login", "Advoware", "clock of Advoware", "settings")
    assert {what: found[what].state for what in told} == dict.fromkeys(told, "ok")


@pytest.mark.parametrize(
    ("quirks", "changed", "what", "words"),
    [
        ({"licence": "product"}, {}, "Advoware's login", "not enabled"),
        ({}, {"ADVOWARE_PASSWORD": "falsch"}, "Advoware's login", "password is wrong"),
        ({"connector": "offline"}, {}, "Advoware's login", "not online"),
        ({"clock_skew_seconds": 600}, {}, "clock of Advoware", "s ahead of ours"),
        ({}, {"ADVOWARE_PATH_PREFIX": "api/v9/"}, "Advoware", "no employees"),
        ({}, {"ADVOWARE_KANZLEI": "falsch"}, "Advoware's addresses", "ADVOWARE_KANZLEI"),
        (
            {},
            {"ADVOWARE_CONFIGURATOR_URL": "http://127.0.0.1:1/"},
            "Advoware's addresses",
            "does not answer at http://127.0.0.1:1",
        ),
    ],
)
async def test_what_is_wrong_with_advoware_is_told_in_plain_words(
    quirks: dict[str, Any], changed: dict[str, str], what: str, words: str, kafka: Kafka
) -> None:
    async with firm(**changed) as (sim, env):
        sim.switch(quirks)
        found = await checked(env)
    assert found[what].state == "finding"
    assert words in f"{found[what].found} {found[what].remedy}"
    assert not any("falsch" in f"{check}" for check in found.values())


@pytest.mark.parametrize(
    ("changed", "state", "words"),
    [
        ({}, "ok", "open to everybody on this machine"),
        (
            {
                "ADVOWARE_PROXY_CALLERS": '[{"name": "portal", "keys": ["0123456789abcdef"], '
                '"scopes": [{"endpoints": ["employees"]}]}]'
            },
            "ok",
            "programs with a key: 1",
        ),
        (
            {"HTTP_HOST": "192.0.2.1", "INGEST_UNSIGNED": "accept"},
            "finding",
            "ADVOWARE_PROXY_CALLERS",
        ),
    ],
)
async def test_who_may_use_the_proxy_is_judged(
    changed: dict[str, str], state: str, words: str, kafka: Kafka
) -> None:
    async with firm(**changed) as (_, env):
        found = (await checked(env))["proxy"]
    assert found.state == state
    assert words in f"{found.found} {found.remedy}"


async def test_a_system_without_advoware_is_complete_and_one_with_half_of_it_is_not(
    kafka: Kafka,
) -> None:
    async with system() as env:
        without = await checked(env)
        half = await checked({**env, "ADVOWARE_USER": "SB"})
    assert (without["Advoware"].state, without["settings"].state) == ("unknown", "ok")
    assert half["settings"].state == "finding"
    assert half["Advoware"].found == "not asked: the settings do not fit"


def answering(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    async def known(env: Environment) -> Checkup:
        return Checkup(env.source, checks)

    monkeypatch.setattr(module, "checkup", known)


def test_findings_end_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Check("Redis", "finding", "does not answer", "start it"))

    told = CliRunner().invoke(build(), ["doctor"])

    assert told.exit_code == Exit.FINDING
    assert "start it" in told.output
    assert "1 to put right" in told.output


def test_what_is_unknown_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Check("Redis", "ok", "answers"), Check("ingest", "unknown", "away"))

    told = CliRunner().invoke(build(), ["doctor", "--json"])

    assert told.exit_code == Exit.OK
    assert [check.state for check in TypeAdapter(Checkup).validate_json(told.output).checks] == [
        "ok",
        "unknown",
    ]
