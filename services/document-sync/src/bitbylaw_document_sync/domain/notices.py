"""What a person is told in the CRM, whom, and once: as long as a trouble lasts (pure).

A message is EspoCRM's notification: nobody but its reader can list it, so after a crash around
one it cannot be looked for, and it is sent at most once; the record's own message field says the
same. What a person must do is a task: it is found again by its record and its name, so it exists
exactly once, and it is completed when the trouble is over. A message stays where it is.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

Means = Literal["message", "task"]


class Kind(StrEnum):
    """What somebody may have to be told; kept in the base, so never renamed."""

    NO_FILE = "no_file"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    INDEXING_FAILED = "indexing_failed"
    CONFLICT = "conflict"
    COLLECTION_MISSING = "collection_missing"
    GAVE_UP = "gave_up"


_EVENTS = frozenset({Kind.CONFLICT})
"""What happens once and does not last: the next of it is told again."""

_TASKS = frozenset({Kind.COLLECTION_MISSING, Kind.GAVE_UP})
"""What nobody sees in the document itself, or must be put right elsewhere."""


@dataclass(frozen=True, slots=True)
class About:
    """The record that somebody is told about; its name is for people, and personal."""

    entity_type: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person should know.

    Attributes:
        text: German: what happened, both values where there are two, the steps to take.
    """

    kind: Kind
    text: str

    @property
    def means(self) -> Means:
        """How it is told."""
        return "task" if self.kind in _TASKS else "message"


class Told(BaseModel):
    """A trouble that somebody was told about and that is not over.

    Attributes:
        means: "task" is completed once it is over.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    means: Means
    since: datetime


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell this user. A task that is there already counts as done; a message is never repeated."""

    trouble: Trouble
    user_id: str


@dataclass(frozen=True, slots=True)
class CloseTask:
    """Complete the task about this. One that a person closed, or that is gone, counts as done."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Telling:
    """What to do about the troubles of a record, and what the base says of it.

    Attributes:
        before: to write ahead: a message counts as sent from then on.
        after: to write once all is done.
    """

    notify: tuple[Notify, ...] = ()
    close: tuple[CloseTask, ...] = ()
    before: tuple[Told, ...] = ()
    after: tuple[Told, ...] = ()


def telling(
    troubles: tuple[Trouble, ...],
    told: tuple[Told, ...],
    to: str | None,
    now: datetime,
    *,
    conclusive: bool = True,
) -> Telling:
    """Return whom to tell what; nothing for what was told before and lasts.

    Args:
        troubles: those that the record has now.
        told: what was told so far.
        to: who is told; None: nobody, and only the record says it.
        now: the host's clock.
        conclusive: the troubles are all there are, so what else was told is over.
    """
    known = {one.kind for one in told}
    fresh = tuple(one for one in troubles if one.kind not in known and to is not None)
    lasting = {trouble.kind for trouble in troubles} | (set() if conclusive else known)
    kept = tuple(one for one in told if one.kind in lasting and one.kind not in _EVENTS)
    over = tuple(one for one in told if one.kind not in lasting)
    news = tuple(Told(kind=one.kind, means=one.means, since=now) for one in fresh)
    return Telling(
        tuple(Notify(trouble, to or "") for trouble in fresh),
        tuple(CloseTask(Kind(one.kind)) for one in over if one.means == "task"),
        (*told, *(one for one in news if one.means == "message")),
        (*kept, *(one for one in news if one.kind not in _EVENTS)),
    )


def untold(told: tuple[Told, ...], kind: Kind) -> tuple[Told, ...]:
    """Return what was told without this, which certainly did not reach anybody."""
    return tuple(one for one in told if one.kind != kind)
