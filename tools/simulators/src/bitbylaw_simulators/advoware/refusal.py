"""How a call ends that is not carried out."""


class Refusal(Exception):  # noqa: N818 - an answer on its way, not a fault of ours
    """The call ends with this status and text.

    Attributes:
        status: the HTTP status.
        message: as Advoware words it.
        allow: methods for a 405.
    """

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.allow = allow
