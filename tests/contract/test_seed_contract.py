"""The predecessor's contract, written out: routes, topics, names and answers that others rely on.

Nothing here is taken from our own declarations; what is not built yet has no row.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bitbylaw_advoware_proxy.app import app as advoware_proxy
from bitbylaw_advoware_proxy.app import deps_over as proxy_deps
from bitbylaw_advoware_proxy.deps import Deps as ProxyDeps
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_common import topics
from bitbylaw_common.cron import CronExpression
from bitbylaw_common.runtime import App
from bitbylaw_common.runtime.control import functions_of
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.settings import CATALOGUE, RedisSettings, RuntimeSettings
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_ingest.app import app as ingest
from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import sample_firm
from contract.proxied import settings_of
from world import SimTransport, World

APPS: tuple[App[Any], ...] = (ingest, document_sync, advoware_proxy)

WEBHOOKS = {
    "/vmh/webhook/beteiligte/create": ("vmh.beteiligte.create", "VMH Webhook Beteiligte Create"),
    "/vmh/webhook/beteiligte/update": ("vmh.beteiligte.update", "VMH Webhook Beteiligte Update"),
    "/vmh/webhook/beteiligte/delete": ("vmh.beteiligte.delete", "VMH Webhook Beteiligte Delete"),
    "/vmh/webhook/bankverbindungen/create": (
        "vmh.bankverbindungen.create",
        "VMH Webhook Bankverbindungen Create",
    ),
    "/vmh/webhook/bankverbindungen/update": (
        "vmh.bankverbindungen.update",
        "VMH Webhook Bankverbindungen Update",
    ),
    "/vmh/webhook/bankverbindungen/delete": (
        "vmh.bankverbindungen.delete",
        "VMH Webhook Bankverbindungen Delete",
    ),
    "/vmh/webhook/document/create": ("vmh.document.create", "VMH Webhook Document Create"),
    "/vmh/webhook/document/update": ("vmh.document.update", "VMH Webhook Document Update"),
    "/vmh/webhook/document/delete": ("vmh.document.delete", "VMH Webhook Document Delete"),
}

PROXY = {
    "GET /advoware/proxy": "Advoware Proxy GET",
    "POST /advoware/proxy": "Advoware Proxy POST",
    "PUT /advoware/proxy": "Advoware Proxy PUT",
    "DELETE /advoware/proxy": "Advoware Proxy DELETE",
}

OURS = {"GET /advoware/openapi.json": "Advoware Proxy OpenAPI"}
"""Routes that the predecessor did not have."""

CONSUMED = {
    "document-sync": [
        "vmh.document.create",
        "vmh.document.update",
        "vmh.document.delete",
        "vmh.document.sync_check",
        "vmh.aiknowledge.sync_check",
    ],
}

TOPICS = sorted(
    f"vmh.{entity}.{action}"
    for entity in ("beteiligte", "bankverbindungen", "document")
    for action in ("create", "update", "delete", "sync_check")
)
NOT_OF_THE_SEED = ["vmh.aiknowledge.sync_check"]
"""A later webhook of the predecessor's; here its events are our own."""

ENVIRONMENT = {
    "ESPOCRM_API_BASE_URL": None,
    "ESPOCRM_API_KEY": None,
    "ESPOCRM_API_TIMEOUT_SECONDS": "30",
    "ESPOCRM_METADATA_TTL_SECONDS": "300",
    "ADVOWARE_API_BASE_URL": None,
    "ADVOWARE_API_KEY": None,
    "ADVOWARE_API_SECRET": None,
    "ADVOWARE_API_TIMEOUT_SECONDS": "30",
    "ADVOWARE_TOKEN_LIFETIME_MINUTES": "55",
    "XAI_API_KEY": None,
    "XAI_MANAGEMENT_KEY": None,
    "REDIS_HOST": "localhost",
    "REDIS_PORT": "6379",
    "REDIS_DB_ADVOWARE_CACHE": "1",
}
"""Each name of the predecessor with its default; None where it had to be set."""

CRONS = {
    "0 */15 * * * *": timedelta(minutes=15),
    "0 0 */6 * * *": timedelta(hours=6),
    "0 0 2 * * *": timedelta(days=1),
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.stop()


def routes() -> dict[str, Any]:
    return {
        f"{trigger.method} {trigger.path}": declared
        for app in APPS
        for declared in app.steps
        for trigger in declared.http_triggers
    }


def test_the_nine_webhooks_and_the_proxy_are_routes_and_there_is_no_other() -> None:
    assert set(routes()) == {f"POST {path}" for path in WEBHOOKS} | set(PROXY) | set(OURS)


@pytest.mark.parametrize("route", PROXY)
def test_each_verb_of_the_proxy_goes_by_its_name_and_leaves_a_trail(route: str) -> None:
    declared = routes()[route]
    assert declared.name == PROXY[route]
    assert declared.flows == ("advoware",)
    assert [topic.name for topic in declared.enqueues] == ["advoware.proxy.response"]


@pytest.mark.parametrize("path", WEBHOOKS)
def test_each_webhook_declares_its_topic_and_goes_by_its_name(path: str) -> None:
    topic, name = WEBHOOKS[path]
    declared = routes()[f"POST {path}"]
    assert declared.name == name
    assert [t.name for t in declared.enqueues if t.name.startswith("vmh.")] == [topic]
    assert "vmh" in declared.flows


@pytest.mark.parametrize("path", WEBHOOKS)
async def test_each_webhook_stores_one_event_per_object_on_its_topic_and_says_so(
    world: World, path: str
) -> None:
    topic, _ = WEBHOOKS[path]
    ids = [f"{number:017x}" for number in (7, 8, 7)]
    body = json.dumps([{"id": one, "entityType": "ignored"} for one in ids]).encode()

    answer = await world.host.request(
        "POST", path, body=body, headers={"Content-Type": "application/json"}
    )

    records = world.host.log.records(topic)
    assert answer.status == 200
    assert isinstance(answer.body, dict)
    assert list(answer.body)[:4] == ["status", "action", "new_ids_count", "total_ids_in_batch"]
    assert answer.body["status"] == "received"
    assert answer.body["action"] == path.rpartition("/")[2]
    assert (answer.body["new_ids_count"], answer.body["total_ids_in_batch"]) == (2, 3)
    assert sorted(answer.body["event_ids"]) == sorted(r.headers["ce_id"] for r in records)
    assert sorted(r.key or b"" for r in records) == sorted(one.encode() for one in ids)
    others = {name for name, _ in WEBHOOKS.values()} - {topic}
    assert [name for name in others if world.host.log.records(name)] == []


async def test_a_single_object_is_taken_like_an_array_of_one(world: World) -> None:
    answer = await world.host.request(
        "POST", "/vmh/webhook/document/create", body=b'{"id":"test123","entityType":"CDokumente"}'
    )
    assert answer.status == 200
    assert [r.key for r in world.host.log.records("vmh.document.create")] == [b"test123"]


async def test_the_command_of_the_guide_is_answered_as_it_was(world: World) -> None:
    answer = await world.host.request(
        "POST",
        "/vmh/webhook/document/create",
        body=b'[{"id": "test123", "entityType": "CDokumente"}]',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 200
    assert isinstance(answer.body, dict)
    assert (
        answer.body.items()
        >= {
            "status": "received",
            "action": "create",
            "new_ids_count": 1,
            "total_ids_in_batch": 1,
        }.items()
    )


async def test_the_proxy_s_command_of_the_guide_is_answered_as_it_was() -> None:
    sim, host = Advoware(), MemoryHost()
    sample_firm(sim)
    settings = ProxySettings.from_env(settings_of({"ADVOWARE_API_BASE_URL": "http://advoware"}))

    @asynccontextmanager
    async def open_deps(_: Mapping[str, str]) -> AsyncIterator[ProxyDeps]:
        transport = SimTransport(
            dict.fromkeys(("http://advoware", "https://security.advo-net.net"), sim)
        )
        async with proxy_deps(transport, settings, host.clock) as deps:
            yield deps

    await host.start(replace(advoware_proxy, open_deps=open_deps), {})
    try:
        answer = await host.request("GET", "/advoware/proxy?endpoint=employees&limit=2&offset=1")
        assert isinstance(answer.body, AsyncIterable)
        body = b"".join([piece async for piece in answer.body])
        missing = await host.request("GET", "/advoware/proxy")
        await host.settle()
    finally:
        await host.stop()

    assert answer.status == 200
    assert [row["kuerzel"] for row in json.loads(body)["result"]] == ["AI", "RO"]
    assert (missing.status, missing.body) == (400, {"error": "Endpoint required as query param"})
    trail = host.log.records("advoware.proxy.response")
    assert sorted(json.loads(one.value or b"")["status"] for one in trail) == [200, 400]


def test_the_topics_keep_their_names() -> None:
    names = [topic.name for topic in topics.catalogue()]
    vmh = sorted(name for name in names if name.startswith("vmh."))
    assert vmh == sorted([*TOPICS, *NOT_OF_THE_SEED])
    assert len(names) == len(set(names))


def test_our_own_topics_follow_the_pattern_of_lower_case_words_and_dots() -> None:
    for topic in topics.catalogue():
        assert topic.name == topic.name.lower()
        assert "." in topic.name
        assert all(
            word.replace("-", "").replace("_", "").isalpha() for word in topic.name.split(".")
        )


@pytest.mark.parametrize("service", CONSUMED)
def test_each_consumer_takes_its_topics(service: str) -> None:
    (app,) = (app for app in APPS if app.name == service)
    assert [topic.name for topic in app.consumes] == CONSUMED[service]


CRONS_AND_MORE = (
    "Document Coverage Cron",
    "Document Comparison Cron",
    "Knowledge Sync",
    "Knowledge Sync Cron",
    "Knowledge Full Sync Cron",
    "Webhook Registration Check",
)
"""Functions that the seed's guide does not have."""


def test_every_function_has_the_id_that_operators_type() -> None:
    found = {info.function_id: info for app in APPS for info in functions_of(app, owner="test")}
    wanted = [f"steps::{name}::trigger::0" for _, name in WEBHOOKS.values()]
    wanted += [f"steps::Document Sync::trigger::{number}" for number in range(4)]
    wanted += [
        f"steps::{name}::trigger::0" for name in (*PROXY.values(), *OURS.values(), *CRONS_AND_MORE)
    ]
    assert sorted(found) == sorted(wanted)
    assert found["steps::Document Sync::trigger::0"].trigger.config == {
        "topic": "vmh.document.create"
    }
    assert found["steps::Advoware Proxy GET::trigger::0"].trigger.config == {
        "method": "GET",
        "path": "/advoware/proxy",
    }
    assert found["steps::VMH Webhook Document Create::trigger::0"].trigger.config == {
        "method": "POST",
        "path": "/vmh/webhook/document/create",
    }


def test_a_function_is_listed_with_the_keys_that_scripts_read() -> None:
    (first, *_) = functions_of(ingest, owner="test")
    listed = first.model_dump(mode="json")
    assert {"function_id", "name", "description", "flows", "trigger", "enqueues"} <= set(listed)
    assert set(listed["trigger"]) == {"type", "config"}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_each_name_of_the_environment_is_known_with_its_default(name: str) -> None:
    assert CATALOGUE[name].default == ENVIRONMENT[name]


def test_the_environment_of_the_guide_starts_the_document_sync() -> None:
    env = {
        "ESPOCRM_API_BASE_URL": "https://crm.example.org/api/v1",
        "ESPOCRM_API_KEY": "your-key",
        "ESPOCRM_API_TIMEOUT_SECONDS": "31",
        "ESPOCRM_METADATA_TTL_SECONDS": "301",
        "ADVOWARE_API_BASE_URL": "https://api.example.org",
        "ADVOWARE_API_KEY": "your-key",
        "ADVOWARE_API_SECRET": "your-secret",
        "XAI_API_KEY": "xai-key",
        "XAI_MANAGEMENT_KEY": "xai-token-key",
        "REDIS_HOST": "cache",
        "REDIS_PORT": "6380",
        "REDIS_DB_ADVOWARE_CACHE": "3",
        "BBL_DIGEST_KEY": "the only name that is new",
    }
    settings = DocumentSyncSettings.from_env(env)
    assert settings.espocrm.base_url == "https://crm.example.org/api/v1"
    assert (settings.espocrm.timeout_seconds, settings.espocrm.metadata_ttl_seconds) == (31, 301)
    assert settings.xai.api_key.get_secret_value() == "xai-key"
    assert settings.xai.management_key.get_secret_value() == "xai-token-key"

    redis = RedisSettings.from_env(env)
    url = redis.connection_url(redis.db_advoware_cache).get_secret_value()
    assert url == "redis://cache:6380/3"
    assert RuntimeSettings.from_env(env).http_port == 3111


@pytest.mark.parametrize("text", CRONS)
def test_the_cron_expressions_of_the_guide_mean_what_they_say(text: str) -> None:
    expression = CronExpression.parse(text)
    first = expression.next_after(datetime(2026, 3, 3, 0, 0, tzinfo=UTC))
    assert expression.next_after(first) - first == CRONS[text]
    assert first.second == 0


async def test_the_document_keeps_the_field_names_and_words_that_people_see(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await world.told("create", klage)

    record = world.espocrm.document(klage)
    assert record["xaiId"] in world.xai.file_ids(akte)
    assert record["xaiCollections"] == [akte]
    assert record["xaiSyncedHash"] == record["md5sum"]
    assert record["fileStatus"] == "synced"


async def test_a_deleted_document_leaves_its_collections_and_its_file_is_kept(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await world.told("create", klage)
    (file_id,) = world.xai.file_ids(akte)

    world.espocrm.delete(klage)
    await world.told("delete", klage)

    assert world.xai.contents(akte) == []
    assert file_id in [file.id for file in world.xai.files()]
