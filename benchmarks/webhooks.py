"""Signed posts as EspoCRM sends them, made before anything is timed (pure)."""

import base64
import hashlib
import hmac
import json

WEBHOOK_ID = "bench"
SECRET = "a secret that only benchmarks use"  # noqa: S105 - it guards nothing
ROUTE = "/vmh/webhook/document/update"
BODY_BYTES = 1_024


def entity_id(number: int) -> str:
    """Return the id of record `number`, as long as those of EspoCRM."""
    return f"{number:017x}"


def body(number: int) -> bytes:
    """Return a post's body: one record, `BODY_BYTES` long."""
    record = {
        "id": entity_id(number),
        "name": f"Schriftsatz {number}.pdf",
        "modifiedAt": "2026-05-01 12:00:00",
        "modifiedById": "64f0c0ffee0000001",
        "dokumentId": entity_id(number + 1),
        "dokumentName": f"Schriftsatz {number}.pdf",
        "blake3hash": hashlib.sha256(str(number).encode()).hexdigest(),
        "description": "",
    }
    filler = BODY_BYTES - len(json.dumps([record]))
    return json.dumps([record | {"description": "x" * filler}]).encode()


def signature(content: bytes) -> str:
    """Return the header `Signature` of a body."""
    proof = hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()
    return base64.b64encode(f"{WEBHOOK_ID}:{proof}".encode()).decode("ascii")


def request(number: int, host: str) -> bytes:
    """Return the whole HTTP request of post `number`."""
    content = body(number)
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Signature: {signature(content)}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("ascii") + content
