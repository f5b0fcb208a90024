"""Keyed digests: compare a field with what it was without keeping what it was (pure)."""

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass

NORMALISER = 1
"""Version of `normalised`. Raise it when the same value would digest differently; bases written
by another version then count as "no base for that field", never as "changed"."""


def normalised(value: str) -> str:
    """Return `value` so that two spellings of the same text are equal: NFC, outer blanks gone."""
    return unicodedata.normalize("NFC", value).strip()


@dataclass(frozen=True, slots=True)
class Digester:
    """Makes digests under one key.

    Attributes:
        key: at least 16 bytes, secret; without it a digest says nothing about its value.
    """

    key: bytes

    @property
    def key_id(self) -> str:
        """Names the key without revealing it; stored beside the digests."""
        return hashlib.sha256(b"bitbylaw-key-id:" + self.key).hexdigest()[:8]

    def of(self, *values: str) -> str:
        """Return the digest (32 hex characters) of the values in their order."""
        mac = hmac.new(self.key, digestmod=hashlib.sha256)
        for value in values:
            part = normalised(value).encode()
            mac.update(len(part).to_bytes(8, "big") + part)
        return mac.hexdigest()[:32]
