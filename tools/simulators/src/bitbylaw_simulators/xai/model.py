"""What xAI holds: files, collections, documents and their way through indexing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

STAGES = ("PROCESSING", "CHUNKED", "EMBEDDING", "WRITING", "PROCESSED")
"""The way of a document that succeeds; the last one is searchable."""


@dataclass(slots=True)
class StoredFile:
    """One uploaded file.

    Attributes:
        id: `file_` and a UUID.
        number: counts uploads, so that equal stamps keep an order.
        filename: as uploaded.
        content_type: as uploaded.
        sha256: of the bytes; names the content.
        blake3: of the bytes.
        size: in bytes.
        created_at: when it was stored, by the true time.
        visible_at: from when reads show it.
        expires_at: from when it is gone by itself; None for never.
        hash_fault: "null" or "wrong" where a fault spoilt the hash.
    """

    id: str
    number: int
    filename: str
    content_type: str
    sha256: str
    blake3: str
    size: int
    created_at: datetime
    visible_at: datetime
    expires_at: datetime | None = None
    hash_fault: str | None = None

    def shown(self, now: datetime) -> bool:
        """Return whether reads show the file."""
        return self.visible_at <= now and (self.expires_at is None or now < self.expires_at)


@dataclass(slots=True)
class Document:
    """One file in one collection.

    Attributes:
        file_id: which file.
        number: counts attaches, so that contents keep their order.
        fields: the values given with it.
        indexed_from: when indexing began.
        visible_at: from when reads show it.
        looks: how often it was read since indexing began.
        stage_seconds: own pace by time; None for the quirk's.
        stage_polls: own pace by looks; None for the quirk's.
        ends: the status it ends with, or stays at: PROCESSED, FAILED, PROCESSING or a foreign one.
        error_message: said with FAILED.
    """

    file_id: str
    number: int
    fields: dict[str, str]
    indexed_from: datetime
    visible_at: datetime
    looks: int = 0
    stage_seconds: float | None = None
    stage_polls: int | None = None
    ends: str = "PROCESSED"
    error_message: str | None = None

    def stage(self, now: datetime, *, by_polls: bool, seconds: float, polls: int) -> str:
        """Return the status without its prefix, at `now`."""
        if self.ends not in {"PROCESSED", "FAILED"}:
            return self.ends
        if by_polls or self.stage_polls is not None:
            pace = self.stage_polls if self.stage_polls is not None else polls
            passed = self.looks // pace if pace > 0 else len(STAGES)
        else:
            took = self.stage_seconds if self.stage_seconds is not None else seconds
            since = (now - self.indexed_from).total_seconds()
            passed = int(since // took) if took > 0 else len(STAGES)
        reached = STAGES[min(passed, len(STAGES) - 1)]
        return self.ends if reached == STAGES[-1] else reached


@dataclass(slots=True)
class Collection:
    """One collection with its documents by file id, in the order they were attached."""

    id: str
    number: int
    name: str
    description: str | None
    created_at: datetime
    field_definitions: list[dict[str, Any]] = field(default_factory=list)
    index_configuration: dict[str, Any] = field(default_factory=dict)
    chunk_configuration: dict[str, Any] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """Return a dataclass as JSON values; times become RFC 3339."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def timed(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return `entry` with the named values read as times again."""
    read = dict(entry)
    for name in names:
        if read.get(name) is not None:
            read[name] = datetime.fromisoformat(read[name])
    return read


def rfc3339(at: datetime, skew: float = 0.0) -> str:
    """Return a stamp as the collections face writes it: microseconds and `Z`."""
    return (at + timedelta(seconds=skew)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
