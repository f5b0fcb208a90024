"""What lies in `{service}.dlq`: who died, of what, where it came from, and who asked for it again."""

import base64
from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import Event
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.runtime.schedule import Carried


class DeadLetter(BaseModel):
    """A record that was given up.

    Attributes:
        step, entity, entity_id: what it was about; empty where the record could not be read.
        origin: `topic:partition:offset` of the record that died; of one that was asked for again,
            and died anew, of the record itself and not of the request.
        reason: in words, without values of the record.
        error: class of the failure; "Bug" and "Undecodable" are counted apart.
        attempts: how many runs were made.
        first_seen, died: when its chain began and ended, UTC.
        carried: the event, to run it again; None where it could not be read.
        raw: base64 of the record's value, only where it could not be read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    service: str
    step: str = ""
    entity: str = ""
    entity_id: str = ""
    origin: str
    reason: str
    error: str
    attempts: int
    first_seen: datetime
    died: datetime
    event_id: str = ""
    run_id: str = ""
    trace_id: str = ""
    code_version: str = ""
    carried: Carried | None = None
    raw: str | None = None

    @property
    def raw_bytes(self) -> bytes | None:
        """The undecodable value, byte for byte."""
        return None if self.raw is None else base64.b64decode(self.raw)

    def to_bytes(self) -> bytes:
        """Return the record value."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Read a record value.

        Raises:
            DecodeError: it is no dead letter.
        """
        try:
            return cls.model_validate_json(value)
        except ValidationError as unfit:
            raise DecodeError(f"{unfit.error_count()} fields of a dead letter do not fit") from None


class Redriven(Event):
    """Somebody asked for a letter's event again; it lies behind the letter, in its partition.

    Attributes:
        letter: the letter's place, `topic:partition:offset`.
        run_id: of the request; the same however often one letter is asked for.
        at: when the request was acknowledged, UTC.
        by: who asked, as a name an operator understands, never a person's data.
    """

    type: ClassVar[str] = "bitbylaw.deadletter.redriven"

    letter: str
    run_id: str
    at: datetime
    by: str = "operator"

    @property
    def key(self) -> str:
        """The letter's place."""
        return self.letter

    @property
    def entity(self) -> str:
        """Redriven letters are their own kind."""
        return "redriven"


def read(record: Record) -> DeadLetter | Redriven:
    """Return what a record of `{service}.dlq` says.

    Raises:
        DecodeError: it is neither a dead letter nor says that one was asked for again.
    """
    if record.value is None:
        raise DecodeError(f"{record.topic}: the record has no value")
    if record.headers.get("ce_type") != Redriven.type:
        return DeadLetter.from_bytes(record.value)
    try:
        return Redriven.model_validate_json(record.value)
    except ValidationError as unfit:
        raise DecodeError(f"{unfit.error_count()} fields of a redrive do not fit") from None


def letters(records: Iterable[Record]) -> list[DeadLetter]:
    """Return the dead letters among these records of `{service}.dlq`.

    Raises:
        DecodeError: as `read`.
    """
    found = (read(record) for record in records if record.value is not None)
    return [one for one in found if isinstance(one, DeadLetter)]
