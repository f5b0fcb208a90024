"""Who sent this webhook: EspoCRM's signature over the raw body, checked (pure)."""

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SIGNATURE = "signature"
"""EspoCRM 9 and later: base64 of `webhook id : HMAC in lower hex`."""

LEGACY_SIGNATURE = "x-signature"
"""Every EspoCRM before 11: base64 of `webhook id : HMAC as 32 raw bytes`."""


class Refusal(StrEnum):
    """Why a post is not believed; each is a metric's label."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_WEBHOOK = "unknown_webhook"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Verified:
    """The body is what this webhook of EspoCRM sent."""

    webhook_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody we share a secret with has signed this body."""

    reason: Refusal


Secrets = Mapping[str, Sequence[str]]
"""By webhook id: its secret, and while it is being changed the old one as well."""


def verify(body: bytes, headers: Mapping[str, str], secrets: Secrets) -> Verified | Refused:
    """Judge the signature of `body`, byte for byte as it came.

    `Signature` decides where it is present, even when `X-Signature` would be right.

    Args:
        body: the raw bytes; parsed and written again they would not match any more.
        headers: names in lower case.
        secrets: as EspoCRM shows them; the text itself is the key, it is not hex to be decoded.
    """
    current, legacy = headers.get(SIGNATURE), headers.get(LEGACY_SIGNATURE)
    header = legacy if current is None else current
    if header is None:
        return Refused(Refusal.MISSING)
    try:
        name, colon, proof = base64.b64decode(header, validate=True).partition(b":")
        webhook_id = name.decode("ascii")
    except ValueError:
        return Refused(Refusal.MALFORMED)
    if not webhook_id or not colon:
        return Refused(Refusal.MALFORMED)
    valid = secrets.get(webhook_id, ())
    if not valid:
        return Refused(Refusal.UNKNOWN_WEBHOOK)
    macs = [hmac.digest(secret.encode(), body, "sha256") for secret in valid]
    expected = [mac if current is None else mac.hex().encode("ascii") for mac in macs]
    # every secret is compared, in constant time, so that time does not tell which one is close
    matches = [hmac.compare_digest(proof, one) for one in expected]
    return Verified(webhook_id) if any(matches) else Refused(Refusal.MISMATCH)
