"""What every client does alike with an answer: read its JSON, its `Retry-After`, its few words."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from bitbylaw_common.errors import Invalid, Transient
from bitbylaw_common.http.transport import Request, Response

_WORDS_BYTES = 16 * 1024
_LONGEST_PATIENCE = timedelta(days=1)
_ID = re.compile(r"[A-Za-z0-9_:@-][A-Za-z0-9._:@-]{0,127}")


def segment(system: str, operation: str, value: str) -> str:
    """Return `value` as one segment of a URL path.

    Raises:
        Invalid: it is no id; its characters could make the path mean something else.
    """
    if not _ID.fullmatch(value):
        raise Invalid(system, operation, detail="this is no id, nothing was sent")
    return quote(value, safe="")


def is_ambiguous(request: Request) -> bool:
    """Say whether a failed answer leaves open if the request was carried out."""
    return not request.idempotent


async def words(response: Response) -> bytes:
    """Return the first 16 KiB of an error's body; what is there when it breaks off.

    The status has told the class of the error already, so a torn body is no second error.
    """
    found = bytearray()
    try:
        async for chunk in response.chunks():
            found += chunk
            if len(found) >= _WORDS_BYTES:
                break
    except Transient:
        pass
    return bytes(found[:_WORDS_BYTES])


def parsed(body: bytes) -> Any:
    """Return the JSON value in `body`, or None when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


async def json_object(request: Request, response: Response) -> Mapping[str, Any]:
    """Return the answer's body, a JSON object.

    Raises:
        Transient: it is torn, larger than 32 MiB, or something else, such as a gateway's page;
            `ambiguous` for what is not idempotent: the status said it was done.
    """
    value = parsed(await response.read())
    if not isinstance(value, dict):
        raise Transient(
            request.system,
            request.operation,
            status=response.status,
            detail="the body is no JSON object; is another server answering at this address?",
            ambiguous=is_ambiguous(request),
        )
    return value


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return how long the answer asks to wait, at most a day; None when it does not say.

    Args:
        headers: the answer's; `Retry-After` holds seconds or an HTTP date.
        now: the wall clock, UTC, to measure a date from.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return min(timedelta(seconds=float(value)), _LONGEST_PATIENCE)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max(until - now, timedelta()), _LONGEST_PATIENCE)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """Return the time that the answer's Date header tells; None without one that can be read."""
    try:
        told = parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return None
    return told if told.tzinfo is not None else None
