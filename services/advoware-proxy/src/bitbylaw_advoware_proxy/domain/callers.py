"""Who calls, what it may ask for and how often (pure).

A caller shows a key. Of keys only digests are kept, and every one is compared in constant time,
so that neither memory nor timing tells which one is close.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bitbylaw_advoware_proxy.domain.rules import Refusal, Target, placed, segments_of

ONE, ANY = "*", "**"
"""In a pattern: any one segment; at its end, anything from here on, or nothing."""

Verb = Literal["GET", "POST", "PUT", "DELETE"]
METHODS: tuple[Verb, ...] = ("GET", "POST", "PUT", "DELETE")


@dataclass(frozen=True, slots=True)
class Scope:
    """Methods on endpoints.

    Attributes:
        methods: some of `METHODS`.
        patterns: each a list of segments, prefix included; see `pattern`.
    """

    methods: frozenset[str]
    patterns: tuple[tuple[str, ...], ...]

    def grants(self, method: str, segments: Sequence[str]) -> bool:
        """Say whether it holds for this call. Letters of another case are another endpoint."""
        return method in self.methods and any(_fits(one, segments) for one in self.patterns)


EVERYTHING = Scope(frozenset(METHODS), ((ANY,),))


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that may call.

    Attributes:
        name: as an operator says it; it stands in events and logs.
        digests: SHA-256 of its keys; two while one is exchanged.
        per_minute: how many calls a minute it may make in each process; None for no limit.
    """

    name: str
    digests: tuple[bytes, ...] = field(repr=False)
    scopes: tuple[Scope, ...]
    per_minute: int | None = None

    def may(self, method: str, target: Target) -> bool:
        """Say whether one of its scopes grants the call."""
        return any(scope.grants(method, target.segments) for scope in self.scopes)


ANYBODY = Caller("anybody", (), (EVERYTHING,))
"""Who calls where no keys are configured: everybody on this machine."""


def pattern(text: str, prefix: str) -> tuple[str, ...]:
    """Return a scope's pattern as segments, the prefix put before it as before an endpoint.

    Args:
        text: an endpoint in which `*` stands for one segment and a last `**` for any further ones:
            `employees`, `Beteiligte/*`, `api/v1/Akten/**`, `**`.
        prefix: as in `rules.target`.

    Raises:
        ValueError: no endpoint could ever fit it; the text says why.
    """
    if text == ANY:
        return (ANY,)
    segments = text.strip("/").split("/")
    if ANY in segments[:-1]:
        raise ValueError("** stands at the end of a pattern only")
    # With plain names in place of the wildcards it must be an endpoint itself.
    found = segments_of("/".join("x" if one in (ONE, ANY) else one for one in segments))
    if isinstance(found, Refusal):
        raise ValueError(  # noqa: TRY004 - a text of the right type, with the wrong value
            "a pattern is an endpoint; * stands for a whole segment, ** for the rest"
        )
    wild = (one if one in (ONE, ANY) else name for one, name in zip(segments, found, strict=True))
    return placed(tuple(wild), prefix)


def digest(key: str) -> bytes:
    """Return what is kept of a key. Keys are long and random, so a plain hash guards them."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def shown(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys that a caller shows: in `apikey`, and as `Authorization: Bearer`.

    Args:
        headers: names in lower case.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    keys = (headers.get("apikey", ""), token.strip() if scheme.lower() == "bearer" else "")
    return tuple(key for key in keys if key)


def caller_of(keys: Iterable[str], callers: Sequence[Caller]) -> Caller | None:
    """Return who shows one of these keys; None when nobody of ours does."""
    found: Caller | None = None
    for key in keys:
        offered = digest(key)
        for caller in callers:
            for one in caller.digests:
                if hmac.compare_digest(one, offered) and found is None:
                    found = caller
    return found


def _fits(wanted: Sequence[str], segments: Sequence[str]) -> bool:
    if wanted and wanted[-1] == ANY:
        wanted = wanted[:-1]
        segments = segments[: len(wanted)]
    return len(wanted) == len(segments) and all(
        one in (ONE, segment) for one, segment in zip(wanted, segments, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a caller's calls.

    Attributes:
        calls: left at `at`; fractions grow back.
        at: seconds of a clock that never goes back.
    """

    calls: float
    at: float


def spend(left: Allowance | None, per_minute: int, now: float) -> tuple[Allowance, float]:
    """Take one call from an allowance that grows back evenly up to a minute's calls.

    Args:
        left: what was left; None before the first call.
        now: seconds of the same clock.

    Returns:
        What is left then, and zero; or what is left as it was, and the seconds until one call is.
    """
    calls = float(per_minute)
    if left is not None:
        calls = min(calls, left.calls + max(0.0, now - left.at) * per_minute / 60)
    if calls < 1:
        return Allowance(calls, now), (1 - calls) * 60 / per_minute
    return Allowance(calls - 1, now), 0.0
