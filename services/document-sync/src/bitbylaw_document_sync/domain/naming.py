"""File names: how an uploaded file is recognised by its name (pure)."""

import unicodedata


def trace(name: str) -> str:
    """Return what survives every way of writing a file name into a header: letters and digits.

    Quotes, blanks and signs may be written differently on the way to xAI and back, so a file is
    recognised by its letters and digits; size and content are compared beside it.
    """
    folded = unicodedata.normalize("NFC", name).casefold()
    return "".join(char for char in folded if char.isalnum())


def ending(name: str) -> str:
    """Return the lower-case ending of a file name without its dot; empty where it has none."""
    stem, dot, last = name.rpartition(".")
    return last.strip().casefold() if dot and stem.strip() else ""
