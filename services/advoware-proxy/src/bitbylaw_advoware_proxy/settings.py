"""The environment that the proxy reads."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from bitbylaw_advoware_proxy.domain.callers import METHODS, Caller, Scope, Verb, digest, pattern
from bitbylaw_common.errors import SettingsError
from bitbylaw_common.settings import (
    AdvowareSettings,
    EnvModel,
    RedisSettings,
    RuntimeSettings,
    Seconds,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHORTEST_KEY_BYTES = 16


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name has lower case letters, digits and hyphens, 32 at most")
    return text


def _key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text.startswith("sha256:") and not _DIGEST.fullmatch(text):
        raise ValueError("a digest is sha256: and 64 hexadecimal digits in lower case")
    if len(text.encode()) < _SHORTEST_KEY_BYTES:
        raise ValueError("a key has at least 16 bytes; `openssl rand -hex 32` makes one")
    return secret


def _endpoint(text: str) -> str:
    pattern(text, "")
    return text


Key = Annotated[SecretStr, AfterValidator(_key)]
"""The key itself, or `sha256:` and the digest of it, so that the environment need not know it."""


class ScopeSettings(BaseModel):
    """Methods on endpoints, as an operator writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoints: Annotated[tuple[Annotated[str, AfterValidator(_endpoint)], ...], Field(min_length=1)]
    methods: Annotated[tuple[Verb, ...], Field(min_length=1)] = METHODS


class CallerSettings(BaseModel):
    """One program that may use the proxy, as an operator writes it.

    Attributes:
        keys: two while one is exchanged.
        per_minute: calls a minute in each process of the proxy; None for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(_name)]
    keys: Annotated[tuple[Key, ...], Field(min_length=1, max_length=2)]
    scopes: Annotated[tuple[ScopeSettings, ...], Field(min_length=1)]
    per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


_CALLERS = TypeAdapter(tuple[CallerSettings, ...])


def _read(text: str) -> tuple[CallerSettings, ...]:
    """Return the callers in a text of JSON.

    Raises:
        ValueError: it does not fit; the text says where, without a key.
    """
    try:
        callers = _CALLERS.validate_json(text)
    except ValidationError as unfit:
        raise ValueError("; ".join(_problems(unfit))) from None
    names = [caller.name for caller in callers]
    keys = [_digest(key) for caller in callers for key in caller.keys]
    if len({*names}) < len(names):
        raise ValueError("two callers have the same name")
    if len({*keys}) < len(keys):
        raise ValueError("the same key is given twice")
    if not callers:
        raise ValueError("must name a caller; without any, leave it out")
    return callers


def _problems(unfit: ValidationError) -> Iterator[str]:
    for error in unfit.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in error["loc"]) or "the list of callers"
        yield f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _digest(secret: SecretStr) -> bytes:
    text = secret.get_secret_value()
    given = _DIGEST.fullmatch(text)
    return bytes.fromhex(given[1]) if given else digest(text)


def _readable(secret: SecretStr) -> SecretStr:
    _read(secret.get_secret_value())
    return secret


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class ProxySettings(EnvModel):
    """All that the proxy reads beside what every service does."""

    runtime: RuntimeSettings
    advoware: AdvowareSettings
    redis: RedisSettings
    callers_text: Annotated[SecretStr, AfterValidator(_readable)] | None = Field(
        None, validation_alias="ADVOWARE_PROXY_CALLERS"
    )
    status: Annotated[Literal["upstream", "original"], BeforeValidator(_lower)] = Field(
        "upstream", validation_alias="ADVOWARE_PROXY_STATUS"
    )
    timeout_seconds: Seconds = Field(150, validation_alias="ADVOWARE_PROXY_TIMEOUT_SECONDS")

    @property
    def callers(self) -> tuple[Caller, ...]:
        """Who may call; of their keys only digests."""
        if self.callers_text is None:
            return ()
        prefix = self.advoware.path_prefix
        return tuple(
            Caller(
                caller.name,
                tuple(_digest(key) for key in caller.keys),
                tuple(
                    Scope(
                        frozenset(scope.methods),
                        tuple(pattern(endpoint, prefix) for endpoint in scope.endpoints),
                    )
                    for scope in caller.scopes
                ),
                caller.per_minute,
            )
            for caller in _read(self.callers_text.get_secret_value())
        )

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for, because only this machine can call.

        Raises:
            SettingsError: nobody needs a key, and the port can be reached from outside.
        """
        if self.callers_text is None and not self.runtime.loopback:
            raise SettingsError(
                f"HTTP_HOST={self.runtime.http_host} can be reached from outside, and nobody needs "
                "a key to ask Advoware: set ADVOWARE_PROXY_CALLERS, or HTTP_HOST=127.0.0.1"
            )
        return self.callers_text is None
