"""What a caller may ask Advoware for: the endpoint it names, made an address under our base (pure).

A call carries our token. So whatever could leave the base, or mean one thing here and another
there, is refused before a token is taken: an endpoint is a list of plain names, and the client writes
the address anew from these.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from unicodedata import category, normalize
from urllib.parse import unquote_to_bytes

ENDPOINT, ALIAS = "endpoint", "path"
"""The query parameter that names the endpoint, and the name that counts where it is missing."""

MOST_CHARACTERS = 1_024
"""Of an endpoint; the longest of Advoware's own have fewer than a hundred."""

MOST_SEGMENTS = 32
MOST_QUERY_CHARACTERS = 8_000

_AS_IT_IS = "api"
"""An endpoint that begins with this segment, in letters of any case, is taken without the prefix."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_PUNCTUATION = frozenset("-._~!$'()+,=:& ")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FIRST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_QUERY = re.compile(r"[!-~]*")


class Refusal(StrEnum):
    """Why an endpoint is not asked for; each is a metric's label."""

    MISSING = "missing"
    TWICE = "twice"
    OVERSIZED = "oversized"
    UNREADABLE = "unreadable"
    ENCODED = "encoded"
    ABSOLUTE = "absolute"
    EMPTY_SEGMENT = "empty_segment"
    DOTS = "dots"
    CHARACTER = "character"
    QUERY = "query"


IN_WORDS = {
    Refusal.MISSING: "Endpoint required as query param",
    Refusal.TWICE: "the endpoint is named more than once",
    Refusal.OVERSIZED: f"the endpoint has more than {MOST_CHARACTERS} characters or {MOST_SEGMENTS} "
    f"segments, or the query more than {MOST_QUERY_CHARACTERS} characters",
    Refusal.UNREADABLE: "the endpoint is no UTF-8, or has a % without two hexadecimal digits",
    Refusal.ENCODED: "the endpoint is encoded more than once, or hides a slash",
    Refusal.ABSOLUTE: "the endpoint must be relative: a name of letters and digits comes first, "
    "neither a scheme nor a host",
    Refusal.EMPTY_SEGMENT: "the endpoint holds an empty segment (//)",
    Refusal.DOTS: "a segment of the endpoint consists of dots, or ends in a dot or a space",
    Refusal.CHARACTER: "the endpoint holds a character that has no place in a path; its query "
    "goes beside it (?endpoint=employees&limit=10)",
    Refusal.QUERY: "the query holds characters that must be percent-encoded",
}
"""For callers; never a part of what they sent."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes.

    Attributes:
        endpoint: as the Advoware client takes it, decoded: `Beteiligte/104860`.
        segments: from the base, decoded, prefix included: what a scope is compared with.
        query: all other parameters in order, byte for byte as they came.
    """

    endpoint: str
    segments: tuple[str, ...]
    query: str = ""

    @property
    def address(self) -> str:
        """The path from the base, decoded: `api/v1/advonet/Beteiligte/104860`."""
        return "/".join(self.segments)


def target(raw_query: str, prefix: str) -> Target | Refusal:
    """Return where a request with this query goes, or why it goes nowhere.

    Args:
        raw_query: what stands behind the question mark, not decoded.
        prefix: segments that come before an endpoint that does not begin with `api/`.
    """
    if len(raw_query) > MOST_QUERY_CHARACTERS:
        return Refusal.OVERSIZED
    if not _QUERY.fullmatch(raw_query) or "#" in raw_query:
        return Refusal.QUERY
    parts = raw_query.split("&") if raw_query else []
    for wanted in (ENDPOINT, ALIAS):
        places = [place for place, part in enumerate(parts) if _is_named(part, wanted)]
        if len(places) > 1:
            return Refusal.TWICE
        if places:
            text = _decoded(parts[places[0]].partition("=")[2].replace("+", " "))
            found = Refusal.UNREADABLE if text is None else segments_of(text)
            if isinstance(found, Refusal):
                return found
            del parts[places[0]]
            return Target("/".join(found), placed(found, prefix), "&".join(parts))
    return Refusal.MISSING


def segments_of(endpoint: str) -> tuple[str, ...] | Refusal:
    """Return the segments that an endpoint names, or why it names none.

    Args:
        endpoint: as a caller writes it, a slash at its beginning or its end does not count;
            percent-encoding in it is undone once.
    """
    if not endpoint.strip():
        return Refusal.MISSING
    if len(endpoint) > MOST_CHARACTERS:
        return Refusal.OVERSIZED
    plain = _decoded(endpoint)
    if plain is None:
        return Refusal.UNREADABLE
    if "%" in plain or plain.count("/") != endpoint.count("/"):
        return Refusal.ENCODED
    given = plain.removeprefix("/").removesuffix("/").split("/")
    for refusal in _flaws(given):
        return refusal
    return tuple(given)


def placed(segments: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """Return an endpoint's segments as they stand behind the base."""
    if segments[0].lower() == _AS_IT_IS and len(segments) > 1:
        return segments
    return (*(name for name in prefix.split("/") if name), *segments)


def _flaws(segments: list[str]) -> Iterator[Refusal]:
    if len(segments) > MOST_SEGMENTS:
        yield Refusal.OVERSIZED
    for segment in segments:
        # Some servers fold what only looks like a dot or a slash before they read the path.
        forms = (segment,) if segment.isascii() else (segment, normalize("NFKC", segment))
        for form in forms:
            if not form:
                yield Refusal.EMPTY_SEGMENT
            elif not form.strip(". ") or form[-1] in ". " or form[0] == " ":
                yield Refusal.DOTS
            elif not _PLAIN.fullmatch(form) and any(map(_is_foreign, form)):
                yield Refusal.CHARACTER
    if not _FIRST.fullmatch(segments[0]):
        yield Refusal.ABSOLUTE


def _is_foreign(character: str) -> bool:
    if character.isascii():
        return not character.isalnum() and character not in _PUNCTUATION
    return category(character) in _INVISIBLE or character.isspace()


def _is_named(part: str, wanted: str) -> bool:
    name = part.partition("=")[0]
    return name == wanted or ("%" in name and _decoded(name) == wanted)


def _decoded(text: str) -> str | None:
    """Return `text` with its percent-encoding undone once; None where that gives no text."""
    if "%" not in text:
        return text
    if _BROKEN_ESCAPE.search(text):
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return None
