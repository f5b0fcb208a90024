"""What can go wrong with the local stack; every text says what to do about it."""


class DevstackError(Exception):
    """The root of what this package raises on purpose."""


class MissingToolError(DevstackError):
    """A program that must be installed is missing or too old; the text is one line."""


class DownloadError(DevstackError):
    """Maven could not bring Kafka's jars."""


class StateInUseError(DevstackError):
    """Another stack runs over the same state folder.

    Attributes:
        pid: who holds it; None when its note could not be read.
    """

    def __init__(self, text: str, pid: int | None) -> None:
        super().__init__(text)
        self.pid = pid


class StartError(DevstackError):
    """A server did not get ready; the text ends with the last lines of its log."""


class ServerDiedError(DevstackError):
    """A server that was ready ended without being asked to."""
