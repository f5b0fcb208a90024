"""`bbl espocrm webhooks` beside a simulated EspoCRM: what differs, mending it, and the secrets."""

import json
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import espocrm as command
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_cli.webhook_records import Office
from bitbylaw_common.clients.espocrm import EspoCRM as Client
from bitbylaw_common.clients.espocrm_webhooks import EspoWebhooks
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.settings import EspoSettings
from bitbylaw_common.webhooks import WEBHOOKS
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.samples import nine_webhooks
from world import ESPOCRM, SimTransport

BASE = "https://hooks.kanzlei.example"


class Desk:
    """A person with `bbl`, an EspoCRM, and what ESPOCRM_WEBHOOK_SECRETS holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.crm = EspoCRM()
        self.secrets: Mapping[str, tuple[SecretStr, ...]] = {}
        self.said = ""
        monkeypatch.setattr(command, "open_office", self.open_office)

    @asynccontextmanager
    async def open_office(self, _env: object, url: str | None) -> AsyncIterator[Office]:
        settings = EspoSettings(
            base_url=f"{ESPOCRM}/api/v1", api_key=SecretStr(self.crm.api_user.api_key or "")
        )
        client = Client(
            SimTransport({ESPOCRM: self.crm}),
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value(),
            clock=SystemClock(),
        )
        yield Office(settings, self.secrets, url, EspoWebhooks(client))

    def types(self, *words: str, url: str = BASE) -> Result:
        answer = CliRunner().invoke(
            build(), ["espocrm", "webhooks", *words, *(["--url", url] if url else [])]
        )
        assert answer.exception is None or isinstance(answer.exception, SystemExit)
        self.said += answer.stdout + answer.stderr
        return answer

    def told(self, *words: str, url: str = BASE) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.types(*words, "--json", url=url).stdout)
        return found

    def rows(self, *, active: bool = True) -> list[dict[str, Any]]:
        return [row for row in self.crm.records("Webhook") if row["isActive"] is active]

    def ingest_learns(self, path: Path) -> None:
        """Give ingest the file of secrets."""
        entries = (entry.split("=") for entry in path.read_text("utf-8").strip().split(","))
        self.secrets = {one: (SecretStr(secret),) for one, secret in entries}


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_plan_changes_nothing_and_ends_with_1_where_nothing_is_registered(desk: Desk) -> None:
    answer = desk.types("plan")
    assert answer.exit_code == Exit.FINDING
    assert answer.stdout.count("is not registered") == len(WEBHOOKS)
    assert "webhookAllowedAddressList" in answer.stdout
    assert "hooks.kanzlei.example:443" in answer.stdout
    assert desk.crm.effects() == []


def test_apply_registers_the_nine_once_however_often_it_is_typed(desk: Desk) -> None:
    assert desk.types("apply", "--yes").exit_code == Exit.OK
    assert {(row["event"], row["url"]) for row in desk.rows()} == {
        (webhook.event, f"{BASE}{webhook.route}") for webhook in WEBHOOKS
    }
    assert all(row["skipOwn"] and row["userId"] == desk.crm.api_user.id for row in desk.rows())
    before = desk.crm.effects()
    again = desk.types("apply", "--yes")
    assert again.exit_code == Exit.OK
    assert desk.crm.effects() == before
    assert desk.types("plan").exit_code == Exit.OK


def test_an_answer_that_was_lost_makes_no_twin(desk: Desk) -> None:
    desk.crm.faults.plan("reset_after", operation="create")
    assert desk.types("apply", "--yes").exit_code == Exit.UNREACHABLE
    assert desk.types("apply", "--yes").exit_code == Exit.OK
    assert len(desk.rows()) == len(WEBHOOKS)


def test_secrets_go_to_a_file_for_this_account_and_to_nothing_else(
    desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "secrets"
    umask = os.umask(0)
    try:
        result = desk.told("apply", "--secrets-file", str(path), "--yes")
    finally:
        os.umask(umask)
    assert result["secrets_file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    desk.ingest_learns(path)
    secrets = [row["secretKey"] for row in desk.rows()]
    assert {s.get_secret_value() for (s,) in desk.secrets.values()} == set(secrets)

    plan = desk.told("plan")
    assert plan["secrets_wanted"] == []
    assert {one["believed"] for one in plan["webhooks"]} == {"yes"}
    assert not any(secret in desk.said for secret in secrets)


def test_a_file_that_is_there_is_refused_before_anything_is_done(
    desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "secrets"
    path.write_text("mine", "utf-8")
    answer = desk.types("apply", "--secrets-file", str(path), "--yes")
    assert answer.exit_code == Exit.REFUSED
    assert path.read_text("utf-8") == "mine"
    assert desk.crm.effects() == []


def test_a_wrong_secret_counts_as_none(desk: Desk) -> None:
    ids = nine_webhooks(desk.crm, BASE, skip_own=True)
    desk.secrets = {one: (SecretStr(secret),) for one, secret in ids.items()}
    assert desk.types("plan").exit_code == Exit.OK
    first = min(ids)
    desk.secrets = {**desk.secrets, first: (SecretStr("another-secret-altogether"),)}
    plan = desk.told("plan")
    assert plan["secrets_wanted"] == [first]
    assert desk.types("plan").exit_code == Exit.FINDING


def test_drift_is_mended_in_place_and_another_address_keeps_its_secret(desk: Desk) -> None:
    secrets = nine_webhooks(desk.crm, "https://old.example", skip_own=True)
    first = min(secrets)
    desk.crm.edit(first, entity="Webhook", isActive=False, skipOwn=False)
    plan = desk.told("plan")
    assert [mend["kind"] for mend in plan["mends"]] == ["change"] * len(WEBHOOKS)
    assert desk.types("apply", "--yes").exit_code == Exit.OK
    rows = {row["id"]: row for row in desk.rows()}
    assert {one: row["secretKey"] for one, row in rows.items()} == secrets
    assert all(row["url"].startswith(BASE) and row["skipOwn"] for row in rows.values())


def test_a_twin_is_switched_off_only_once_ingest_believes_the_other(
    desk: Desk, tmp_path: Path
) -> None:
    # given a twin, and an ingest that knows neither
    ids = nine_webhooks(desk.crm, BASE, skip_own=True)
    webhook = WEBHOOKS[0]
    desk.crm.add_webhook(
        webhook.event, f"{BASE}{webhook.route}", skip_own=True, user=desk.crm.api_user
    )
    desk.secrets = {"another": (SecretStr("0" * 32),)}
    path = tmp_path / "secrets"
    assert desk.types("apply", "--secrets-file", str(path), "--yes").exit_code == Exit.FINDING
    assert len(desk.rows()) == len(WEBHOOKS) + 1

    # when it learns the secrets
    desk.ingest_learns(path)
    assert desk.types("apply", "--yes").exit_code == Exit.OK

    # then one of the two is off, and still there
    assert {row["id"] for row in desk.rows()} == set(ids)
    assert len(desk.rows(active=False)) == 1


def test_an_administrator_s_webhook_is_not_ours_to_see(desk: Desk) -> None:
    webhook = WEBHOOKS[0]
    desk.crm.add_webhook(webhook.event, f"{BASE}{webhook.route}")
    assert desk.types("apply", "--yes").exit_code == Exit.OK
    assert len(desk.rows()) == len(WEBHOOKS) + 1


def test_a_webhook_that_the_crm_deleted_after_a_410_is_found_missing_and_comes_back(
    desk: Desk,
) -> None:
    # espo_18: an answer 410 deletes the webhook in EspoCRM
    ids = nine_webhooks(desk.crm, BASE, skip_own=True)
    desk.crm.add_document("Klage.pdf", b"v1")
    (delivery,) = desk.crm.due_deliveries()
    desk.crm.delivered(delivery, 410)
    answer = desk.types("plan")
    assert answer.exit_code == Exit.FINDING
    assert answer.stdout.count("is not registered") == 1
    missing = [one["event"] for one in desk.told("plan")["webhooks"] if one["faults"]]
    assert missing == [delivery.event]
    assert desk.types("apply", "--yes").exit_code == Exit.OK
    assert len(desk.rows()) == len(ids)


def test_a_crm_that_posts_to_no_private_address_refuses_and_says_what_to_set(desk: Desk) -> None:
    desk.crm.switch({"webhook_address_check": True})
    answer = desk.types("apply", "--yes", url="http://ingest:8080")
    assert answer.exit_code == Exit.REFUSED
    assert "webhookAllowedAddressList" in answer.stderr
    assert "ingest:8080" in answer.stderr


def test_a_user_who_may_not_see_webhooks_is_told_which_right_is_missing(desk: Desk) -> None:
    desk.crm.faults.plan("status", status=403, operation="list")
    answer = desk.types("plan")
    assert answer.exit_code == Exit.REFUSED
    assert '"Webhooks"' in answer.stderr


def test_without_an_address_the_routes_are_compared_and_nothing_can_be_applied(desk: Desk) -> None:
    nine_webhooks(desk.crm, "http://somewhere:1", skip_own=True)
    answer = desk.types("plan", url="")
    assert answer.exit_code == Exit.OK
    assert "ESPOCRM_WEBHOOK_BASE_URL" in answer.stdout
    refused = desk.types("apply", "--yes", url="")
    assert refused.exit_code == Exit.USAGE
    assert "ESPOCRM_WEBHOOK_BASE_URL" in refused.stderr


def test_an_address_that_is_none_is_refused(desk: Desk) -> None:
    assert desk.types("plan", url="hooks.example").exit_code == Exit.USAGE
    assert desk.types("plan", url="https://hooks.example?apikey=x").exit_code == Exit.USAGE
