"""Resources below `Sim/` that Advoware does not have: they tell what arrived, and send what is asked."""

import base64
import gzip
import re
from typing import Any

from bitbylaw_simulators.advoware.refusal import Refusal
from bitbylaw_simulators.wire import CHUNK, Made, SimRequest, SimResponse, json_answer

LARGEST = 16 * 1024**3
LARGEST_PACKED = 32 * 1024**2
"""Bytes in one download at most; a compressed one is made in memory."""

KEPT_BODY = 64 * 1024
"""Bodies up to so many bytes are told whole, others by size and hash."""

_UNTOLD = frozenset({"authorization", "cookie"})


def answer(request: SimRequest, path: str, digest: str | None) -> SimResponse:
    """Answer a call below `Sim/`.

    `echo` tells what arrived; `mirror` sends the body back under its own content type;
    `status/{code}` is `echo` with that status; `bytes/{n}` sends n bytes, with `chunked=1` without
    their length, with `gzip=1` compressed, with `seed` others, with `type` under that content type.

    Raises:
        Refusal: 404, there is no such resource; 400, a parameter is wrong.
    """
    if path == "echo":
        return _told(request, 200, digest)
    if path == "mirror":
        kind = request.header("Content-Type") or "application/octet-stream"
        return SimResponse(200, {"Content-Type": kind}, request.body, file=request.spool)
    found = re.fullmatch(r"status/([2-5]\d\d)", path)
    if found is not None:
        return _told(request, int(found[1]), digest)
    found = re.fullmatch(r"bytes/(\d{1,11})", path)
    if found is not None:
        return _bytes(request, int(found[1]))
    raise Refusal(404, "The resource was not found.")


def told(request: SimRequest, digest: str | None) -> dict[str, Any]:
    """Return what arrived: target, headers in order, size, SHA-256, and a small body in base64.

    Credentials are left out.
    """
    body = request.body if request.size <= KEPT_BODY and request.spool is None else None
    return {
        "method": request.method,
        "target": request.target or request.path,
        "headers": [
            [name, value] for name, value in request.headers.items() if name.lower() not in _UNTOLD
        ],
        "size": request.size,
        "sha256": digest,
        "body_base64": None if body is None else base64.b64encode(body).decode(),
    }


def _told(request: SimRequest, status: int, digest: str | None) -> SimResponse:
    if status in {204, 304}:
        return SimResponse(status)
    return json_answer(told(request, digest), status)


def _bytes(request: SimRequest, size: int) -> SimResponse:
    seed = request.parameter("seed") or "0"
    packed = request.parameter("gzip") == "1"
    if size > (LARGEST_PACKED if packed else LARGEST) or not seed.isdecimal():
        raise Refusal(400, "The parameters are not valid.")
    kind = request.parameter("type") or "application/octet-stream"
    headers = {"Content-Type": kind, "Content-Disposition": 'attachment; filename="sim.bin"'}
    made = Made(size, int(seed))
    announced = request.parameter("chunked") != "1"
    if packed:
        body = gzip.compress(b"".join(made.chunks(CHUNK)), mtime=0)
        return SimResponse(200, {**headers, "Content-Encoding": "gzip"}, body, announced=announced)
    return SimResponse(200, headers, made=made, announced=announced)
