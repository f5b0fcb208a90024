"""How Advoware's answers become ours: wrapped, passed through, or told as an error (pure)."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

BEFORE, AFTER = b'{"result": ', b"}"
EMPTY = BEFORE + b"null" + AFTER
JSON_TYPE = "application/json"

NO_CONTENT = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
"""Answered 200, because ours has a body: `{"result": null}`."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_FORWARDED = ("accept", "accept-language", "content-type", "content-encoding", "content-length")
_KEPT = ("cache-control", "content-disposition", "content-language", "etag", "last-modified")
_WORDS = ("detail", "details", "message", "title", "error")
_MOST_WORDS = 500
_LIKE_A_SECRET = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}")


def forwarded(headers: Mapping[str, str], *, has_body: bool) -> dict[str, str]:
    """Return the caller's headers that concern Advoware; its keys and cookies are not among them.

    Args:
        headers: names in lower case.
        has_body: whether a body is sent along.
    """
    return {
        name: headers[name]
        for name in _FORWARDED
        if name in headers and (has_body or not name.startswith("content-"))
    }


def has_body(headers: Mapping[str, str]) -> bool:
    """Say whether a request with these headers (names in lower case) brings a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def is_json(content_type: str) -> bool:
    """Say whether it is JSON that fits into ours, which is UTF-8."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [
        one.partition("=")[2].strip('" ') for one in parameters if one.startswith("charset")
    ]
    return (kind in (JSON_TYPE, "text/json") or kind.endswith("+json")) and all(
        charset in ("utf-8", "utf8", "us-ascii") for charset in charsets
    )


def beginning(text: bytes, *, first: bool) -> bytes:
    """Return JSON without what may stand before it: white space, and a byte order mark."""
    return (text.removeprefix(_BOM) if first else text).lstrip(_BLANK)


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return Advoware's headers that describe a body which is passed through as it is.

    Args:
        headers: names compare without case.
    """
    found = {name: headers[name] for name in _KEPT if name in headers}
    found["content-type"] = headers.get("Content-Type", "application/octet-stream")
    announced = announced_bytes(headers)
    if announced is not None:
        found["content-length"] = str(announced)
    return {name: value for name, value in found.items() if value.isascii() and value.isprintable()}


def announced_bytes(headers: Mapping[str, str]) -> int | None:
    """Return how long the body is; None where that is not told.

    The length of a compressed body is not that of what we are given, which is unpacked.

    Args:
        headers: names compare without case.
    """
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and "Content-Encoding" not in headers else None


def words_of(content_type: str, body: bytes) -> str:
    """Return what Advoware says about an error, shortened, for the caller who caused it.

    It is Advoware's answer to that caller and nothing for a log. Whatever could be a secret is
    left out of it.
    """
    text = ""
    if is_json(content_type):
        text = _sentence(_parsed(body))
    elif content_type.lower().startswith("text/plain"):
        text = body.decode(errors="replace")
    text = " ".join(_LIKE_A_SECRET.sub("***", text).split())
    return "".join(c for c in text if c.isprintable())[:_MOST_WORDS]


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _sentence(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        folded = {str(name).lower(): one for name, one in value.items()}
        found = [folded[name] for name in _WORDS if isinstance(folded.get(name), str)]
        return str(found[0]) if found else ""
    return ""


def phrase(status: int) -> str:
    """Return HTTP's own words for a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
