"""The catalogue of topics as a page for people, and as rows for programs."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.topics import MIB, PARTITIONS, catalogue

_PREFACE = f"""\
# Topics

Written by `bbl topics docs` from the catalogue, `bitbylaw_common/topics.py`; a test holds the two
equal. Change the catalogue, then run `bbl topics docs > docs/topics.md`.

- Every topic has {PARTITIONS} partitions and one partitioner (murmur2 of the id), so everything about
  a record lies in the partition of its id, on every topic.
- Times are the broker's (`message.timestamp.type=LogAppendTime`).
- Values are JSON; headers are CloudEvents 1.0 in binary mode (`ce_id`, `ce_type`, ...),
  `traceparent`, and the runtime's own `bbl-*`.
- Topics marked personal may hold personal data: they need access rights of their own, and `bbl`
  prints them only when asked with `--personal`.
"""
_COLUMNS = ("topic", "holds", "owner", "kept", "personal", "largest record")


class TopicRow(BaseModel):
    """One topic as it is declared.

    Attributes:
        event: the `ce_type` of its values; empty where the runtime keeps its own records.
        retention_days: None keeps for ever.
        cleanup: "compact" keeps the last record of each key.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    event: str
    owner: str
    partitions: int
    retention_days: float | None
    cleanup: str
    personal: bool
    max_message_bytes: int


def rows() -> tuple[TopicRow, ...]:
    """Return every topic of the catalogue, in its order."""
    return tuple(
        TopicRow(
            name=topic.name,
            description=topic.description,
            event=getattr(topic.event, "type", ""),
            owner=topic.owner,
            partitions=topic.partitions,
            retention_days=None if topic.retention is None else topic.retention / timedelta(days=1),
            cleanup=topic.cleanup,
            personal=topic.personal,
            max_message_bytes=topic.max_message_bytes,
        )
        for topic in catalogue()
    )


def kept(row: TopicRow) -> str:
    """Return how long records live, in words."""
    if row.cleanup == "compact":
        return "last of each key"
    return "for ever" if row.retention_days is None else f"{row.retention_days:g} days"


def markdown() -> str:
    """Return docs/topics.md."""
    found = rows()
    lines = [
        _PREFACE,
        f"| {' | '.join(_COLUMNS)} |",
        f"| {' | '.join('---' for _ in _COLUMNS)} |",
    ]
    for row in found:
        cells = (
            f"`{row.name}`",
            row.description + (f" (`{row.event}`)" if row.event else ""),
            row.owner,
            kept(row),
            "yes" if row.personal else "",
            f"{row.max_message_bytes // MIB} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
