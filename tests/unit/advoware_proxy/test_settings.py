"""Who may use the proxy, by its environment; and what is wrong with a wrong one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_advoware_proxy.app import deps_of
from bitbylaw_advoware_proxy.domain.callers import caller_of
from bitbylaw_advoware_proxy.settings import ProxySettings
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import SettingsError
from bitbylaw_common.settings import differences, secret_values
from contract.proxied import settings_of
from unit.ingest.posts import Lines

KEY, OTHER = "portal-key-0123456789", "another-key-0123456789"
PORTAL: dict[str, Any] = {"name": "portal", "keys": [KEY], "scopes": [{"endpoints": ["**"]}]}
ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens; the rule is asked


def env(*callers: dict[str, Any], **more: str) -> dict[str, str]:
    return settings_of(
        {
            "ADVOWARE_API_BASE_URL": "http://127.0.0.1:1",
            **({"ADVOWARE_PROXY_CALLERS": json.dumps(callers)} if callers else {}),
            **more,
        }
    )


def read(given: dict[str, str]) -> ProxySettings:
    return ProxySettings.from_env(given)


def test_every_name_is_in_the_catalogue() -> None:
    assert differences(ProxySettings) == ()


def test_a_caller_is_known_by_its_key_and_by_its_digest() -> None:
    digest = "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest()
    settings = read(env({**PORTAL, "keys": [KEY, digest]}))
    (portal,) = settings.callers
    assert caller_of([KEY], settings.callers) is not None
    assert caller_of([OTHER], settings.callers) is not None
    assert caller_of([digest], settings.callers) is None
    assert portal.per_minute is None


def test_patterns_stand_behind_the_configured_prefix() -> None:
    scope = {"endpoints": ["employees", "api/v1/Akten/*"], "methods": ["GET"]}
    (caller,) = read(env({**PORTAL, "scopes": [scope]}, ADVOWARE_PATH_PREFIX="api/v2/")).callers
    assert caller.scopes[0].patterns == (
        ("api", "v2", "employees"),
        ("api", "v1", "Akten", "*"),
    )


def test_callers_may_lie_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "callers.json"
    path.write_text(json.dumps([PORTAL]), "utf-8")
    (caller,) = read(env(ADVOWARE_PROXY_CALLERS_FILE=str(path))).callers
    assert caller.name == "portal"


@pytest.mark.parametrize(
    ("callers", "told"),
    [
        ([{**PORTAL, "keys": ["too-short"]}], "16 bytes"),
        ([{**PORTAL, "keys": ["sha256:0123456789abcdef"]}], "64 hexadecimal digits"),
        ([{**PORTAL, "keys": []}], "keys"),
        ([{**PORTAL, "name": "Das Portal"}], "name"),
        ([{**PORTAL, "scopes": []}], "scopes"),
        ([{**PORTAL, "scopes": [{"endpoints": ["../x"]}]}], "pattern"),
        ([{**PORTAL, "scopes": [{"endpoints": ["x"], "methods": ["PATCH"]}]}], "methods"),
        ([{**PORTAL, "per_minute": 0}], "per_minute"),
        ([{**PORTAL, "perminute": 5}], "perminute"),
        ([PORTAL, PORTAL], "same name"),
        ([PORTAL, {**PORTAL, "name": "other"}], "same key"),
        ([{**PORTAL, "keys": [KEY, "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()]}], "same key"),
    ],
)  # fmt: skip
def test_callers_that_do_not_fit_refuse_to_start_without_showing_a_key(
    callers: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(SettingsError, match="ADVOWARE_PROXY_CALLERS") as refused:
        read(env(*callers))
    assert told in str(refused.value)
    assert KEY not in str(refused.value)
    assert "too-short" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "portal=key", "{", "[]", '{"name": "portal"}', "[[]]"])
def test_a_text_that_is_no_list_of_callers_refuses_to_start(text: str) -> None:
    given = env(ADVOWARE_PROXY_CALLERS=text)
    if not text:
        assert read(given).callers == ()
        return
    with pytest.raises(SettingsError, match="ADVOWARE_PROXY_CALLERS"):
        read(given)


def test_the_keys_are_hidden_in_logs_and_in_what_is_printed() -> None:
    given = env({**PORTAL, "keys": [KEY, OTHER]})
    assert {KEY, OTHER} <= secret_values(given)
    settings = read(given)
    assert KEY not in repr(settings) + repr(settings.callers)


def test_without_callers_and_reachable_from_outside_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="ADVOWARE_PROXY_CALLERS"):
        _ = read(env(HTTP_HOST=ANYWHERE)).is_open
    assert read(env(PORTAL, HTTP_HOST=ANYWHERE)).is_open is False


class Nobody:
    """An Advoware that is never asked."""

    def call(self, *_: object, **__: object) -> Any:
        raise AssertionError("it was asked")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_without_callers_the_own_machine_is_let_in_with_one_warning(host: str) -> None:
    lines = Lines()
    deps = deps_of(Nobody(), read(env(HTTP_HOST=host)), SystemClock(), lines)
    caller = deps.door.caller({})
    assert caller is not None
    assert caller.name == "anybody"
    assert len(lines.at("warning")) == 1

    silent = Lines()
    guarded = deps_of(Nobody(), read(env(PORTAL, HTTP_HOST=host)), SystemClock(), silent)
    assert guarded.door.caller({}) is None
    assert silent.kept == []
