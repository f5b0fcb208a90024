"""The chain of time limits is checked before anything starts."""

import pytest

from bitbylaw_common.errors import SettingsError
from bitbylaw_common.runtime.hosting import _check_times
from bitbylaw_common.settings import RuntimeSettings


def test_a_grace_period_shorter_than_the_drain_and_half_a_minute_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match=r"BBL_GRACE_SECONDS=60 .* at least 190"):
        _check_times("document-sync", 160, RuntimeSettings.from_env({"BBL_GRACE_SECONDS": "60"}))


def test_a_grace_period_that_fits_or_is_not_named_starts() -> None:
    for env in ({}, {"BBL_GRACE_SECONDS": "190"}):
        _check_times("document-sync", 160, RuntimeSettings.from_env(env))
    assert RuntimeSettings.from_env({}).grace_seconds is None
