"""Names and kinds of file."""

import unicodedata

import pytest

from bitbylaw_document_sync.domain.filetypes import LARGEST_BYTES, Unfit, unfit
from bitbylaw_document_sync.domain.naming import ending, trace


@pytest.mark.parametrize(
    ("name", "mime", "size", "expected"),
    [
        ("Klage.pdf", "application/pdf", 1, None),
        ("Klage.PDF", "Application/PDF; x=y", LARGEST_BYTES, None),
        ("Anlagen", "application/zip; charset=binary", 5, Unfit.UNSUPPORTED),
        ("Notiz", "text/plain", 5, None),
        ("Nachricht.eml", "message/rfc822", 5, None),
        ("Unbekannt.xyz", "application/octet-stream", None, None),
        ("Klage.pdf", "application/pdf", 0, Unfit.EMPTY),
        ("Scan.pdf", "application/pdf", LARGEST_BYTES + 1, Unfit.TOO_LARGE),
        ("Setup.EXE", "application/octet-stream", 5, Unfit.UNSUPPORTED),
        ("Setup", "application/x-msdownload", 5, Unfit.UNSUPPORTED),
        ("Diktat", "audio/mpeg", 5, Unfit.UNSUPPORTED),
        ("Anlagen.zip", "application/octet-stream", LARGEST_BYTES + 1, Unfit.UNSUPPORTED),
    ],
)
def test_only_what_holds_no_text_is_turned_away(
    name: str, mime: str, size: int | None, expected: Unfit | None
) -> None:
    assert unfit(name, mime, size) is expected


def test_a_name_leaves_the_same_trace_however_it_is_written() -> None:
    name = 'Räumung "Müller" 12.pdf'
    assert trace(name) == "räumungmüller12pdf"
    assert trace(unicodedata.normalize("NFD", name)) == trace(name)
    assert trace(name.upper()) == trace(name)
    assert trace(name) != trace("Räumung Müller 13.pdf")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Klage.PDF", "pdf"), ("Klage", ""), (".htaccess", ""), ("a.b.exe ", "exe"), ("", "")],
)
def test_the_ending_is_what_follows_the_last_dot(name: str, expected: str) -> None:
    assert ending(name) == expected
