"""What Advoware's records consist of: a table for each resource (pure)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from bitbylaw_simulators.advoware.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a record.

    Attributes:
        name: as JSON has it, camelCase.
        kind: text, number, flag (true or false), switch (0 or 1), day, moment or clock.
        server: whether Advoware alone sets it.
    """

    name: str
    kind: str = "text"
    server: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of record.

    Attributes:
        name: as paths have it.
        one: a single record, in the names of operations.
        key: the column that names a record.
        first: the number of the first record that is created.
        columns: all fields.
        below: whether its records belong to a Beteiligter.
    """

    name: str
    one: str
    key: str
    first: int
    columns: tuple[Column, ...]
    below: bool = False

    def column(self, name: str) -> Column | None:
        """Return a column by its name in any case, None when there is none."""
        wanted = name.lower()
        return next((entry for entry in self.columns if entry.name.lower() == wanted), None)

    def accepted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the known fields of a body with their values checked; others are left out.

        Raises:
            Refusal: 400, a value does not fit.
        """
        found: dict[str, Any] = {}
        for name, value in given.items():
            column = self.column(name)
            if column is not None:
                found[column.name] = _fitting(column, value)
        return found

    def empty(self) -> dict[str, Any]:
        """Return a record without values."""
        return {column.name: _EMPTY.get(column.kind) for column in self.columns}


_EMPTY: dict[str, Any] = {"flag": False, "switch": 0}


def _columns(kind: str, *names: str, server: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name, kind, server) for name in names)


BETEILIGTE = Resource(
    "Beteiligte",
    "beteiligter",
    "betNr",
    104860,
    (
        *_columns("number", "id", "betNr", server=True),
        *_columns("text", "rowId", "anzeigename", server=True),
        *_columns("text", "name", "vorname", "kurzname", "geburtsname", "anrede", "bAnrede"),
        *_columns("text", "titel", "zusatz", "rechtsform", "art", "familienstand"),
        *_columns("day", "geburtsdatum", "sterbedatum"),
        *_columns("text", "handelsRegisterNummer", "registergericht"),
        *_columns("text", "angelegtAm", "angelegtVon", "geaendertAm", "geaendertVon", server=True),
    ),
)
KOMMUNIKATIONEN = Resource(
    "Kommunikationen",
    "kommunikation",
    "id",
    88001,
    (
        *_columns("number", "id", "betNr", server=True),
        Column("rowId", server=True),
        Column("kommArt", "number", server=True),
        Column("kommKz", "number"),
        *_columns("text", "tlf", "bemerkung"),
        Column("online", "flag"),
    ),
    below=True,
)
ADRESSEN = Resource(
    "Adressen",
    "adresse",
    "id",
    70001,
    (
        *_columns("number", "id", "betNr", server=True),
        Column("rowId", server=True),
        Column("reihenfolgeIndex", "number", server=True),
        *_columns("text", "strasse", "plz", "ort", "anschrift", "land", "postfach", "postfachPLZ"),
        Column("standardAnschrift", "flag"),
        Column("bemerkung"),
        *_columns("day", "gueltigVon", "gueltigBis"),
    ),
    below=True,
)
BANKVERBINDUNGEN = Resource(
    "Bankverbindungen",
    "bankverbindung",
    "id",
    30001,
    (
        *_columns("number", "id", "betNr", server=True),
        Column("rowId", server=True),
        *_columns("text", "auftraggeber", "bank", "kontoNr", "blz", "iban", "bic"),
        Column("mandatsreferenz"),
        Column("mandatVom", "day"),
    ),
    below=True,
)
TERMINE = Resource(
    "Termine",
    "termin",
    "frNr",
    500001,
    (
        Column("frNr", "number", server=True),
        Column("rowId", server=True),
        *_columns("moment", "datum", "datumBis"),
        *_columns("clock", "uhrzeitVon", "uhrzeitBis"),
        Column("uhrzeitBisTicks", "number"),
        *_columns("text", "text", "notiz", "ort", "anwalt", "sachbearbeiter"),
        Column("dauertermin", "switch"),
        *_columns("number", "turnus", "turnusArt"),
        *_columns("switch", "abwesenheit", "privat"),
        Column("nr", "number"),
        Column("azRubrum", server=True),
        Column("erinnerung", "switch"),
        Column("erinnerungsDatum", "moment"),
        *_columns("clock", "vorbereitungsDauer", "hinfahrt", "rueckfahrt"),
        Column("zuletztGeaendertAm", server=True),
    ),
)
MITARBEITER = Resource(
    "Mitarbeiter",
    "mitarbeiter",
    "id",
    1,
    (
        Column("id", "number", server=True),
        *_columns("text", "kuerzel", "name", "vorname", "email"),
        Column("aktiv", "flag"),
    ),
)
URLAUBE = Resource(
    "Urlaube",
    "urlaub",
    "id",
    1,
    (
        Column("id", "number", server=True),
        Column("kuerzel"),
        *_columns("day", "datum", "datumBis"),
    ),
)

RESOURCES: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        BETEILIGTE,
        KOMMUNIKATIONEN,
        ADRESSEN,
        BANKVERBINDUNGEN,
        TERMINE,
        MITARBEITER,
        URLAUBE,
    )
}

_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?")


def _fitting(column: Column, value: Any) -> Any:
    if value is None:
        return _EMPTY.get(column.kind)
    try:
        return _READ[column.kind](value)
    except (ValueError, TypeError):
        raise Refusal(400, f"Der Wert des Feldes {column.name} ist ungültig.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not -(2**31) <= value < 2**63:
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _switch(value: Any) -> int:
    if type(value) is not int or value not in {0, 1}:
        raise ValueError
    return value


def _day(value: Any) -> str:
    return f"{date.fromisoformat(_text(value)[:10]).isoformat()}T00:00:00"


def _moment(value: Any) -> str:
    text = _text(value)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError
    return moment.replace(microsecond=0).isoformat()


def _clock(value: Any) -> str:
    found = _CLOCK.fullmatch(_text(value))
    if found is None:
        raise ValueError
    return time(int(found[1]), int(found[2]), int(found[3] or 0)).isoformat()


_READ: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "number": _number,
    "flag": _flag,
    "switch": _switch,
    "day": _day,
    "moment": _moment,
    "clock": _clock,
}

_MAIL, _WEB = frozenset({4, 8, 11, 12}), frozenset({5})


def komm_art(komm_kz: int) -> int:
    """Return the kind of a Kommunikation that follows from `kommKz`: 0 phone, 1 mail, 2 web."""
    if komm_kz in _MAIL:
        return 1
    return 2 if komm_kz in _WEB else 0


CONTACT_FIELDS: dict[str, int] = {
    "telGesch": 1,
    "fax": 2,
    "mobil": 3,
    "emailGesch": 4,
    "internet": 5,
    "tel": 6,
    "emailPrivat": 8,
}
"""Read-only fields at the top level of a Beteiligter, and the `kommKz` whose first value they show."""
