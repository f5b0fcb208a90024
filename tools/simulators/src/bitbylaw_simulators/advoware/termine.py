"""Termine as they are read: windows, derived rows with negative numbers, ways to write times (pure)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from bitbylaw_simulators.advoware.quirks import AdvowareQuirks
from bitbylaw_simulators.advoware.refusal import Refusal
from bitbylaw_simulators.advoware.store import ticks_of

EVERYBODY = frozenset({"", "ALLE", "Allgemein"})
"""Values of `anwalt` that mean the whole firm."""

_WORDS = {1: "Vortermin", 2: "Hinfahrt", 3: "Rückfahrt"}
_MIDNIGHT, _LAST = "00:00:00", "23:59:00"


def within(
    rows: Iterable[Mapping[str, Any]], first: str | None, last: str | None, kuerzel: str | None
) -> list[Mapping[str, Any]]:
    """Return the rows that touch the window and belong to the employee.

    Args:
        rows: as the store keeps them.
        first: `YYYY-MM-DD`, the window's first day; None for no limit.
        last: its last day.
        kuerzel: initials; `Allgemein` for the whole firm's; None for all.

    Raises:
        Refusal: 400, a day cannot be read.
    """
    begin, end = _day(first, "0001-01-01"), _day(last, "9999-12-31")
    return [
        row
        for row in rows
        if row["datum"] <= end
        and (row["datumBis"] or row["datum"]) >= begin
        and _belongs(row["anwalt"] or "", kuerzel)
    ]


def _belongs(anwalt: str, kuerzel: str | None) -> bool:
    if kuerzel is None:
        return True
    return anwalt in EVERYBODY if kuerzel == "Allgemein" else anwalt == kuerzel


def _day(text: str | None, otherwise: str) -> str:
    if text is None:
        return otherwise
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise Refusal(400, f"Das Datum {text} ist ungültig.") from None


def derived(
    termine: Iterable[Mapping[str, Any]],
    holidays: Iterable[Mapping[str, Any]],
    number: Callable[[int, int], int],
) -> list[dict[str, Any]]:
    """Return the rows that Advoware derives: preparation, journeys, holidays.

    Args:
        termine: rows of single Termine; series have no derived rows.
        holidays: rows of Urlaube.
        number: gives the negative `frNr` from the origin's number and the kind (1 to 4).
    """
    found: list[dict[str, Any]] = []
    for row in termine:
        start, end = row["uhrzeitVon"], row["uhrzeitBis"]
        if row["dauertermin"]:
            continue
        if row["hinfahrt"] and start:
            begin = _moved(start, row["hinfahrt"], -1)
            found.append(_derived(row, 2, number, (begin, start)))
            start = begin
        if row["vorbereitungsDauer"] and start:
            begin = _moved(start, row["vorbereitungsDauer"], -1)
            found.append(_derived(row, 1, number, (begin, start)))
        if row["rueckfahrt"] and end:
            until = _moved(end, row["rueckfahrt"], 1)
            last = {"datum": row["datumBis"] or row["datum"]}
            found.append(_derived({**row, **last}, 3, number, (end, until)))
    return found + [_holiday(row, number(row["id"], 4)) for row in holidays]


def _derived(
    row: Mapping[str, Any],
    special: int,
    number: Callable[[int, int], int],
    times: tuple[str, str],
) -> dict[str, Any]:
    return {
        **row,
        "frNr": number(row["frNr"], special),
        "special": special,
        "text": f"{_WORDS[special]}: {row['text'] or ''}",
        "datumBis": row["datum"],
        "uhrzeitVon": times[0],
        "uhrzeitBis": times[1],
        "vorbereitungsDauer": None,
        "hinfahrt": None,
        "rueckfahrt": None,
    }


def _holiday(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {
        "frNr": number,
        "special": 4,
        "datum": row["datum"][:10],
        "datumBis": (row["datumBis"] or row["datum"])[:10],
        "uhrzeitVon": _MIDNIGHT,
        "uhrzeitBis": _LAST,
        "text": "Urlaub",
        "anwalt": row["kuerzel"],
        "dauertermin": 0,
        "abwesenheit": 1,
        "privat": 0,
        "zuletztGeaendertAm": None,
    }


def _moved(clock: str, duration: str, way: int) -> str:
    """Return the time of day that lies `duration` before or after; it stays within the day."""
    at = datetime.fromisoformat(f"2000-01-01T{clock}")
    hours, minutes, seconds = (int(part) for part in duration.split(":"))
    moved = at + way * timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if moved.date() < at.date():
        return _MIDNIGHT
    return _LAST if moved.date() > at.date() else moved.time().isoformat()


def written(row: Mapping[str, Any], quirks: AdvowareQuirks) -> dict[str, Any]:
    """Return a row's fields as reads write them, except for stamps."""
    told = {**row, "uhrzeitBisTicks": ticks_of(row["uhrzeitBis"])}
    midnight = f"T{_MIDNIGHT}" if quirks.termin_dates == "date_time" else ""
    for name in ("datum", "datumBis"):
        if told[name]:
            told[name] += midnight
    if quirks.termin_times == "in_datum":
        told["datum"] = f"{row['datum']}T{told.pop('uhrzeitVon') or _MIDNIGHT}"
    key = told.pop("frNr")
    return {quirks.frnr_key: key, **told}
