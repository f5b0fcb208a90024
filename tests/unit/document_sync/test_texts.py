"""What people read in the CRM, word for word: they act on it, so every word of it counts."""

import pytest

from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.filetypes import Unfit

UNFIT = {
    Unfit.EMPTY: (
        "Die Datei ist leer und wurde nicht an xAI übertragen. Bitte die Datei erneut hochladen."
    ),
    Unfit.TOO_LARGE: (
        "Die Datei ist größer als 48 MB und wurde nicht an xAI übertragen. "
        "Bitte die Datei verkleinern oder aufteilen."
    ),
    Unfit.UNSUPPORTED: (
        "Dateien dieses Typs kann xAI nicht durchsuchen; die Datei wurde nicht übertragen. "
        "Bitte den Inhalt als PDF- oder Textdatei hinterlegen."
    ),
}
EARLIER = " Durchsuchbar bleibt die frühere Fassung."


@pytest.mark.parametrize("why", Unfit)
def test_a_file_that_is_not_uploaded_tells_why_and_what_stays_to_be_found(why: Unfit) -> None:
    assert texts.not_uploaded(why, earlier=False) == UNFIT[why]
    assert texts.not_uploaded(why, earlier=True) == UNFIT[why] + EARLIER


@pytest.mark.parametrize(("status", "answer"), [(413, " (Antwort 413)"), (None, "")])
def test_a_refusal_names_xai_s_answer_where_there_was_one(status: int | None, answer: str) -> None:
    assert texts.refused(status) == (
        f"xAI hat die Datei abgelehnt{answer}. Bitte prüfen, ob sie sich öffnen lässt, "
        "und sie sonst neu hochladen."
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("cannot parse", " Meldung von xAI: „cannot parse“."),
        ("  cannot\n  parse ", " Meldung von xAI: „cannot parse“."),
        ("x" * 300, f" Meldung von xAI: „{'x' * 200}“."),
        ("", ""),
    ],
)
@pytest.mark.parametrize("earlier", [True, False])
def test_what_cannot_be_searched_is_told_with_xai_s_words_on_one_line(
    error: str, said: str, earlier: bool
) -> None:
    assert texts.not_indexed(error, earlier=earlier) == (
        f"xAI konnte die Datei nicht durchsuchbar machen.{said} Bitte prüfen, ob sie sich öffnen "
        f"lässt und Text enthält, und sie sonst neu hochladen.{EARLIER if earlier else ''}"
    )


def test_collections_that_are_gone_are_named_in_order() -> None:
    assert texts.collections_missing({"b", "c", "a"}) == (
        "Bei xAI gibt es diese Sammlung nicht mehr: a, b, c. "
        "Bitte die Wissensdatenbank prüfen, mit der das Dokument verknüpft ist."
    )


def test_a_knowledge_base_without_its_collection_is_told_both_ways_out() -> None:
    assert texts.own_collection_missing("c1") == (
        "Bei xAI gibt es die Sammlung dieser Wissensdatenbank nicht mehr: c1. Entweder den "
        "Aktivierungsstatus auf „new“ setzen, dann wird sie neu angelegt und gefüllt, oder bei "
        "„Datenbank-ID“ die richtige Sammlung eintragen."
    )


def test_each_overwritten_field_is_told_with_both_values() -> None:
    edits = [("xaiId", "f7", "f1"), ("xaiCollections", "", "A"), ("xaiId", "f7", "")]
    assert texts.overwritten(edits) == (
        "Von Hand geänderte Angaben wurden überschrieben: "
        "im Feld „xaiId“ stand f7, eingetragen wird f1; "
        "im Feld „xaiCollections“ stand nichts, eingetragen wird A; "
        "im Feld „xaiId“ stand f7, eingetragen wird nichts. "
        "Diese Felder führt der Abgleich. Soll eine andere Datei gelten, bitte sie beim Dokument "
        "hochladen; soll das Dokument in eine andere Sammlung, bitte die Verknüpfung mit der "
        "Wissensdatenbank ändern."
    )


def test_who_is_told_that_it_was_given_up_reads_how_to_begin_again() -> None:
    assert texts.gave_up(6) == (
        "Der Abgleich dieses Dokuments mit xAI ist 6 Mal misslungen und wird nicht von selbst "
        "wiederholt. Zum Wiederholen den Dateistatus auf „geändert“ setzen; misslingt es erneut, "
        "bitte die IT verständigen."
    )
