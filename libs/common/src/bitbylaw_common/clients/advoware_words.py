"""What the German sentences of Advoware's gateway and relay mean (pure)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """A known sentence.

    Attributes:
        part: what it contains, in small letters.
        lasting: it stays so until somebody changes settings or licence; else the firm's server is
            away and comes back.
        words: what it means and what to do, in ours.
    """

    part: str
    lasting: bool
    words: str


_PASSWORD = "user or password is wrong: correct ADVOWARE_USER and ADVOWARE_PASSWORD"  # noqa: S105 - words

KNOWN: tuple[Trouble, ...] = (
    Trouble(
        "freigeschaltet",
        True,
        "the application, its product or the user is not enabled for this firm: the vendor enables "
        "ADVOWARE_APP_ID for ADVOWARE_KANZLEI, the firm the user",
    ),
    Trouble("falscher name oder falsches kennwort", True, _PASSWORD),
    Trouble("benutzer / kennwort ung", True, _PASSWORD),
    Trouble(
        "ist nicht angemeldet",
        False,
        "the firm's database is not online: its server is off, or the advoware Manager on it",
    ),
    Trouble(
        "ist nicht registriert",
        False,
        "the relay does not know the firm's connector at present: its server is off, or "
        "ADVOWARE_KANZLEI or ADVOWARE_DATABASE is misspelt",
    ),
)
"""Sentences as the vendor's own client looks for them."""


def trouble(body: bytes) -> Trouble | None:
    """Return what the text of an error answer tells; None when it is no known sentence."""
    text = " ".join(body.decode("utf-8", "replace").lower().split())
    return next((known for known in KNOWN if known.part in text), None)
