"""What people read in the CRM about a document (German)."""

from collections.abc import Iterable

from bitbylaw_document_sync.domain.filetypes import LARGEST_BYTES, MIB, Unfit

NO_FILE = "Zu diesem Dokument gibt es keine Datei. Bitte die Datei hochladen."

_UNFIT = {
    Unfit.EMPTY: "Die Datei ist leer und wurde nicht an xAI übertragen. Bitte die Datei erneut hochladen.",
    Unfit.TOO_LARGE: (
        f"Die Datei ist größer als {LARGEST_BYTES // MIB} MB und wurde nicht an xAI übertragen. "
        "Bitte die Datei verkleinern oder aufteilen."
    ),
    Unfit.UNSUPPORTED: (
        "Dateien dieses Typs kann xAI nicht durchsuchen; die Datei wurde nicht übertragen. "
        "Bitte den Inhalt als PDF- oder Textdatei hinterlegen."
    ),
}
_EARLIER = " Durchsuchbar bleibt die frühere Fassung."


def not_uploaded(why: Unfit, *, earlier: bool) -> str:
    """Say why the file is not at xAI, and whether an earlier version of it still is."""
    return _UNFIT[why] + (_EARLIER if earlier else "")


def refused(status: int | None) -> str:
    """Say that xAI will not take the file as it is."""
    answer = f" (Antwort {status})" if status is not None else ""
    return (
        f"xAI hat die Datei abgelehnt{answer}. Bitte prüfen, ob sie sich öffnen lässt, "
        "und sie sonst neu hochladen."
    )


def collections_missing(collections: Iterable[str]) -> str:
    """Say that knowledge bases point to collections that xAI does not have."""
    return (
        f"Bei xAI gibt es diese Sammlung nicht mehr: {', '.join(sorted(collections))}. "
        "Bitte die Wissensdatenbank prüfen, mit der das Dokument verknüpft ist."
    )
