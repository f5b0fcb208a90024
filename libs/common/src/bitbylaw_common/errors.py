"""Every error of the project, as one tree.

BitByLawError
 |- SettingsError            an environment variable is missing, misspelt or has a bad value
 |- DeclarationError         a step, topic or app is declared in a way that cannot work
 |- UndeclaredTopicError     a step published to a topic that it does not declare
 |- DecodeError              a record's bytes are not what its topic promises
 |- OwnershipLost            another worker owns the record now; nothing more may be written
 |   `- LockLost             somebody outside the group took the record's lock
 |- LogUnavailableError      Kafka did not acknowledge in time
 |- RecordRefused            Kafka will never take this record: it is too large
 `- OutsideError             an outside system did not do what it was asked
     |- HeldBack             it was not asked: its circuit is open, or its rate is used up
     |- Transient            it may work later: time-out, reset, 5xx
     |   `- TimedOut         no answer, or not all of it, within its time
     |- RateLimited          it asked for patience, and perhaps said how long
     |- Unauthorized         key or permission: nobody's record is to blame
     |- NotFound             the thing is not there
     |- Conflict             the thing changed under us, or exists already
     `- Invalid              it will never accept this request
"""

from datetime import timedelta


class BitByLawError(Exception):
    """The root of every error that this project raises on purpose."""


class SettingsError(BitByLawError):
    """The environment does not fit; the text names variable, problem and remedy."""


class DeclarationError(BitByLawError):
    """A declaration cannot work; raised at import or start, never while records flow."""


class UndeclaredTopicError(BitByLawError):
    """A step published to a topic missing from its `enqueues`."""


class DecodeError(BitByLawError):
    """A record's bytes do not fit its topic. The text carries no byte of the record."""


class OwnershipLost(BitByLawError):  # noqa: N818 - it names a fact, not a mistake
    """This worker no longer owns the record's partition; the run ends without a write."""


class LockLost(OwnershipLost):
    """The record's lock has another holder now; the run ends without another write."""


class LogUnavailableError(BitByLawError):
    """Kafka did not acknowledge in time; the record may or may not have been stored."""


class RecordRefused(BitByLawError):  # noqa: N818 - reads as the kind of answer it is
    """Kafka will never take this record; nothing was stored. The text names topic and sizes."""


class OutsideError(BitByLawError):
    """An outside system did not do what it was asked.

    Attributes:
        system: who was asked: "espocrm", "xai", ...
        operation: what was asked, as a method name without ids: "update_entity".
        status: the HTTP status answered; None when no answer came.
        detail: the system's own words, shortened, without personal data or secrets.
        ambiguous: the effect may have happened although no answer came.
    """

    def __init__(
        self,
        system: str,
        operation: str,
        *,
        status: int | None = None,
        detail: str = "",
        ambiguous: bool = False,
    ) -> None:
        self.system = system
        self.operation = operation
        self.status = status
        self.detail = detail
        self.ambiguous = ambiguous
        answer = f"answered {status}" if status is not None else "did not answer"
        super().__init__(f"{system} {answer} to {operation}" + (f": {detail}" if detail else ""))


class HeldBack(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """The system was not asked, to spare it: nothing was sent, so no attempt is burnt.

    Attributes:
        after: when asking again may be worth it, counted from now.
    """

    def __init__(self, system: str, operation: str, *, reason: str, after: timedelta) -> None:
        super().__init__(system, operation, detail=reason)
        self.after = after
        self.args = (f"{system} was not asked to {operation}: {reason}",)


class Transient(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """It may work later: a time-out, a reset, a 5xx, a torn answer."""


class TimedOut(Transient):
    """No connection, no answer, or not all of one came within its time."""


class RateLimited(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """It asked for patience.

    Attributes:
        retry_after: how long it asked for; None when it did not say.
    """

    def __init__(
        self,
        system: str,
        operation: str,
        *,
        status: int | None = 429,
        detail: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(system, operation, status=status, detail=detail)
        self.retry_after = retry_after


class Unauthorized(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """The key is wrong, revoked or lacks a permission."""


class NotFound(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """The thing asked for is not there."""


class Conflict(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """The thing changed since it was read, or exists already.

    Attributes:
        reason: the system's word for it, such as EspoCRM's "modified" or "duplicate".
    """

    def __init__(
        self,
        system: str,
        operation: str,
        *,
        status: int | None = 409,
        detail: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(system, operation, status=status, detail=detail)
        self.reason = reason


class Invalid(OutsideError):  # noqa: N818 - reads as the kind of answer it is
    """The system will never accept this request as it is."""
