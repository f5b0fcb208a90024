"""The base: what both sides of a sync agreed on last, kept in `{service}.base`."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitbylaw_common.errors import DecodeError
from bitbylaw_common.sync.digests import NORMALISER


class BaseState(BaseModel):
    """What every sync's base carries; a service adds its own fields.

    Holds ids, version tokens and keyed digests, never a person's data in the clear.

    Attributes:
        key_id: which digest key its digests were made with.
        normaliser: which version of `digests.normalised`.
        written_at: when, by the owner's clock, UTC.
        written_by: the run that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key_id: str
    normaliser: int = NORMALISER
    written_at: datetime
    written_by: str = Field(default="")

    def comparable(self, key_id: str) -> bool:
        """Say whether its digests can be compared with ones made now under `key_id`."""
        return self.key_id == key_id and self.normaliser == NORMALISER

    def says_the_same_as(self, other: "BaseState | None") -> bool:
        """Compare but for when and by which run it was written."""
        stamps = {"written_at", "written_by"}
        return other is not None and self.model_dump(exclude=stamps) == other.model_dump(
            exclude=stamps
        )

    def to_bytes(self) -> bytes:
        """Return the record value."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Read a record value.

        Raises:
            DecodeError: it is not such a state; the caller treats the record as having none.
        """
        try:
            return cls.model_validate_json(value)
        except ValidationError as unreadable:
            raise DecodeError(
                f"{unreadable.error_count()} fields of the base do not fit {cls.__name__}"
            ) from None
