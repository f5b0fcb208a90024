"""What people read in the CRM (German): in a record, in a notification, in a task.

Each says what happened, both values where there are two, and the steps to take.
"""

from collections.abc import Iterable

from bitbylaw_document_sync.domain.filetypes import LARGEST_BYTES, MIB, Unfit
from bitbylaw_document_sync.domain.notices import Kind

NO_FILE = "Zu diesem Dokument gibt es keine Datei. Bitte die Datei hochladen."

SUBJECTS = {
    Kind.NO_FILE: "Datei fehlt",
    Kind.EMPTY: "Datei ist leer",
    Kind.TOO_LARGE: "Datei ist zu groß für die KI-Suche",
    Kind.UNSUPPORTED: "Dateityp ist nicht durchsuchbar",
    Kind.REFUSED: "xAI hat die Datei abgelehnt",
    Kind.INDEXING_FAILED: "xAI konnte die Datei nicht lesen",
    Kind.CONFLICT: "Angabe zur KI-Suche wurde überschrieben",
    Kind.COLLECTION_MISSING: "KI-Wissensdatenbank: Sammlung fehlt bei xAI",
    Kind.GAVE_UP: "Abgleich mit xAI wurde aufgegeben",
}
"""The subject of a task, by which it is found again; never changed without need."""

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
UNFIT_KINDS = {
    Unfit.EMPTY: Kind.EMPTY,
    Unfit.TOO_LARGE: Kind.TOO_LARGE,
    Unfit.UNSUPPORTED: Kind.UNSUPPORTED,
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


HASH_DIFFERS = (
    "xAI hat die Datei zweimal verändert gespeichert; auf das Suchergebnis ist kein Verlass. "
    "Bitte die Datei erneut hochladen oder die IT verständigen."
)


def not_indexed(error: str, *, earlier: bool) -> str:
    """Say that xAI could not make the file searchable, and whether an earlier version still is.

    Args:
        error: xAI's own words; empty where it gave none, as when it never comes to an end.
    """
    words = " ".join(error.split())[:200]
    said = f" Meldung von xAI: „{words}“." if words else ""
    return (
        f"xAI konnte die Datei nicht durchsuchbar machen.{said} Bitte prüfen, ob sie sich öffnen "
        "lässt und Text enthält, und sie sonst neu hochladen." + (_EARLIER if earlier else "")
    )


def collections_missing(collections: Iterable[str]) -> str:
    """Say that knowledge bases point to collections that xAI does not have."""
    return (
        f"Bei xAI gibt es diese Sammlung nicht mehr: {', '.join(sorted(collections))}. "
        "Bitte die Wissensdatenbank prüfen, mit der das Dokument verknüpft ist."
    )


def own_collection_missing(collection: str) -> str:
    """Say in a knowledge base that its collection is gone at xAI."""
    return (
        f"Bei xAI gibt es die Sammlung dieser Wissensdatenbank nicht mehr: {collection}. "
        "Entweder den Aktivierungsstatus auf „new“ setzen, dann wird sie neu angelegt und gefüllt, "
        "oder bei „Datenbank-ID“ die richtige Sammlung eintragen."
    )


def overwritten(edits: Iterable[tuple[str, str, str]]) -> str:
    """Say which fields were edited by hand, with what stood there and what is written."""
    said = "; ".join(
        f"im Feld „{field}“ stand {theirs or 'nichts'}, eingetragen wird {ours or 'nichts'}"
        for field, theirs, ours in edits
    )
    return (
        f"Von Hand geänderte Angaben wurden überschrieben: {said}. Diese Felder führt der Abgleich. "
        "Soll eine andere Datei gelten, bitte sie beim Dokument hochladen; soll das Dokument in "
        "eine andere Sammlung, bitte die Verknüpfung mit der Wissensdatenbank ändern."
    )


def gave_up(attempts: int) -> str:
    """Say that a document is not tried again by itself."""
    return (
        f"Der Abgleich dieses Dokuments mit xAI ist {attempts} Mal misslungen und wird nicht von "
        "selbst wiederholt. Zum Wiederholen den Dateistatus auf „geändert“ setzen; misslingt es "
        "erneut, bitte die IT verständigen."
    )
