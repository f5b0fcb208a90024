"""Whose webhooks ingest believes, by its environment."""

import pytest

from bitbylaw_common.errors import SettingsError
from bitbylaw_common.settings import differences
from bitbylaw_ingest.deps import deps_of, open_deps
from bitbylaw_ingest.settings import IngestSettings
from unit.ingest.posts import Lines

SECRETS = {"ESPOCRM_WEBHOOK_SECRETS": "w1=s-old|s-new,w2=other"}


def test_every_name_is_in_the_catalogue() -> None:
    assert differences(IngestSettings) == ()


def test_with_secrets_signatures_are_asked_for_on_every_address() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - nothing listens; the rule is asked
        lines = Lines()
        deps = deps_of(IngestSettings.from_env({**SECRETS, "HTTP_HOST": host}), lines)
        assert deps.accepts_unsigned is False
        assert deps.secrets == {"w1": ("s-old", "s-new"), "w2": ("other",)}
        assert lines.kept == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_secrets_the_own_machine_is_believed_with_one_warning(host: str) -> None:
    lines = Lines()
    deps = deps_of(IngestSettings.from_env({"HTTP_HOST": host}), lines)
    assert deps.accepts_unsigned is True
    assert len(lines.at("warning")) == 1


async def test_without_secrets_and_reachable_from_outside_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="ESPOCRM_WEBHOOK_SECRETS"):
        async with open_deps({"HTTP_HOST": "0.0.0.0"}):  # noqa: S104 - as above
            pytest.fail("it started")


def test_secrets_and_accepting_unsigned_posts_exclude_each_other() -> None:
    settings = IngestSettings.from_env({**SECRETS, "INGEST_UNSIGNED": "accept"})
    with pytest.raises(SettingsError, match="INGEST_UNSIGNED"):
        deps_of(settings, Lines())


def test_rejecting_without_secrets_refuses_everything_and_says_so() -> None:
    lines = Lines()
    deps = deps_of(IngestSettings.from_env({"INGEST_UNSIGNED": "reject"}), lines)
    assert (deps.accepts_unsigned, deps.secrets) == (False, {})
    assert lines.at("warning") == [
        "every webhook will be refused: INGEST_UNSIGNED=reject, and no webhook has a secret"
    ]


async def test_what_the_environment_describes_is_opened() -> None:
    async with open_deps(SECRETS) as deps:
        assert set(deps.secrets) == {"w1", "w2"}
