"""The firm's database behind the connector: rows, their versions, and what a write does to them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from random import Random
from typing import Any

from bitbylaw_simulators.advoware.quirks import AdvowareQuirks
from bitbylaw_simulators.advoware.refusal import Refusal
from bitbylaw_simulators.advoware.tables import (
    ADRESSEN,
    BETEILIGTE,
    KOMMUNIKATIONEN,
    MITARBEITER,
    RESOURCES,
    TERMINE,
    Resource,
    komm_art,
)

_TICKS = 10_000_000
"""A second in .NET's ticks."""


@dataclass(slots=True)
class Row:
    """One record.

    Attributes:
        values: all its fields; stamps as RFC 3339 in UTC.
        visible_at: from when reads show them; None for at once.
        before: what reads show until then; None when they show nothing.
    """

    values: dict[str, Any]
    visible_at: datetime | None = None
    before: dict[str, Any] | None = None

    def shown(self, now: datetime) -> dict[str, Any] | None:
        """Return what reads show, None when they do not show the row."""
        hidden = self.visible_at is not None and now < self.visible_at
        return self.before if hidden else self.values


class Store:
    """Everything the firm has.

    Args:
        now: tells the true time.
        quirks: gives the switches.
        dice: of the row versions.

    Attributes:
        tables: rows by key, by resource.
    """

    def __init__(
        self, now: Callable[[], datetime], quirks: Callable[[], AdvowareQuirks], dice: Random
    ) -> None:
        self.dice = dice
        self.tables: dict[str, dict[int, Row]] = {name: {} for name in RESOURCES}
        self._numbers: dict[str, int] = {}
        self._now = now
        self._quirks = quirks

    # reading

    def rows(self, resource: Resource, **fixed: Any) -> list[dict[str, Any]]:
        """Return what reads show of a table, by key; only rows with these values."""
        now = self._now()
        shown = (
            self.tables[resource.name][key].shown(now) for key in sorted(self.tables[resource.name])
        )
        return [
            values
            for values in shown
            if values is not None and all(values[name] == value for name, value in fixed.items())
        ]

    def find(self, resource: Resource, key: int) -> dict[str, Any] | None:
        """Return what reads show of one row, None when it is not there."""
        row = self.tables[resource.name].get(key)
        return None if row is None else row.shown(self._now())

    # writing

    def create(
        self,
        resource: Resource,
        given: Mapping[str, Any],
        user: str,
        *,
        bet_nr: int | None = None,
        hidden: float = 0.0,
    ) -> dict[str, Any]:
        """Make a row of checked values and return it.

        Args:
            resource: of what kind.
            given: its fields, as `Resource.accepted` returns them; the server's own are left out.
            user: initials of who writes.
            bet_nr: whose row, for rows below a Beteiligter.
            hidden: for how many seconds reads do not show it.

        Raises:
            Refusal: 400, it lacks what it must have.
        """
        server = {column.name for column in resource.columns if column.server}
        values = resource.empty() | {k: v for k, v in given.items() if k not in server}
        self._complete(resource, values)
        _check(resource, values)
        key = self._numbers.get(resource.name, resource.first)
        self._numbers[resource.name] = key + 1
        values[resource.key] = key
        if resource is BETEILIGTE:
            values |= {"id": key, "angelegtAm": self.stamp(), "angelegtVon": user}
        if resource.below:
            values["betNr"] = bet_nr
        if resource is ADRESSEN:
            others = self.rows(ADRESSEN, betNr=bet_nr)
            values["reihenfolgeIndex"] = 1 + max((r["reihenfolgeIndex"] for r in others), default=0)
        self._derive(resource, values)
        self._written(resource, values, user, given)
        row = Row(values)
        self._hide(row, hidden, None)
        self.tables[resource.name][key] = row
        return values

    def update(
        self,
        resource: Resource,
        key: int,
        given: Mapping[str, Any],
        user: str,
        *,
        hidden: float = 0.0,
        by_hand: bool = False,
    ) -> tuple[dict[str, Any], list[str]]:
        """Change a row; return it and the names of the fields that became others.

        Args:
            resource: of what kind.
            key: which.
            given: its fields, as `Resource.accepted` returns them.
            user: initials of who writes.
            hidden: for how many seconds reads show it as it was.
            by_hand: as an employee does it at the screen: what is not given stays, every field
                may change.

        Raises:
            KeyError: there is no such row.
            Refusal: 400, a value must not change or cannot be.
        """
        row = self.tables[resource.name][key]
        before = dict(row.values)
        values = dict(row.values)
        for column in resource.columns:
            if column.server:
                continue
            name = column.name
            if by_hand:
                if name in given:
                    values[name] = given[name]
            elif name in self._read_only(resource):
                self._keep(name, before, given)
            elif name in given:
                values[name] = given[name]
            elif self._quirks().full_object_put:
                values[name] = resource.empty()[name]
        self._complete(resource, values)
        _check(resource, values)
        self._derive(resource, values)
        changed = [name for name in values if values[name] != before[name]]
        if changed or self._quirks().row_id == "per_write":
            self._written(resource, values, user, given)
        row.values = values
        self._hide(row, hidden, before)
        return values, changed

    def delete(self, resource: Resource, key: int, user: str) -> None:
        """Remove a row, and what lies below it.

        Raises:
            KeyError: there is no such row.
        """
        values = self.tables[resource.name].pop(key).values
        if resource.below:
            self._touch_party(values["betNr"], user)
        if resource is BETEILIGTE:
            for below in (entry for entry in RESOURCES.values() if entry.below):
                table = self.tables[below.name]
                for number in [n for n, row in table.items() if row.values["betNr"] == key]:
                    del table[number]

    def row_id(self) -> str:
        """Return a new row version: 40 letters from A to P."""
        letters = "".join(chr(ord("A") + self.dice.randrange(16)) for _ in range(32))
        return f"FBABAAAA{letters}"

    def stamp(self) -> str:
        """Return Advoware's present time, RFC 3339 in UTC."""
        skew = timedelta(seconds=self._quirks().clock_skew_seconds)
        return (self._now() + skew).isoformat(timespec="milliseconds")

    # state

    def dump(self) -> dict[str, dict[str, Any]]:
        """Return all tables as JSON."""
        return {
            name: {
                str(key): {
                    "values": row.values,
                    "visible_at": row.visible_at.isoformat() if row.visible_at else None,
                    "before": row.before,
                }
                for key, row in table.items()
            }
            for name, table in self.tables.items()
        }

    def load(self, tables: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, int]) -> None:
        """Take up what `dump` and `numbers` returned."""
        self._numbers = dict(numbers)
        for name, table in tables.items():
            self.tables[name] = {
                int(key): Row(
                    entry["values"],
                    datetime.fromisoformat(entry["visible_at"]) if entry["visible_at"] else None,
                    entry["before"],
                )
                for key, entry in table.items()
            }

    @property
    def numbers(self) -> dict[str, int]:
        """The next number of each resource that has rows."""
        return dict(self._numbers)

    def forget(self) -> None:
        """Forget everything."""
        self._numbers.clear()
        for table in self.tables.values():
            table.clear()

    def _read_only(self, resource: Resource) -> tuple[str, ...]:
        quirks = self._quirks()
        return {
            BETEILIGTE.name: quirks.read_only_beteiligte,
            KOMMUNIKATIONEN.name: quirks.read_only_kommunikation,
            ADRESSEN.name: quirks.read_only_adressen,
        }.get(resource.name, ())

    def _keep(self, name: str, before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        refusing = self._quirks().read_only_fields == "400"
        if refusing and name in given and given[name] != before[name]:
            raise Refusal(400, f"Das Feld {name} kann nicht geändert werden.")

    def _complete(self, resource: Resource, values: dict[str, Any]) -> None:
        quirks = self._quirks()
        if quirks.bemerkung_limit and values.get("bemerkung"):
            values["bemerkung"] = values["bemerkung"][: quirks.bemerkung_limit]
        if resource is not TERMINE:
            return
        ticks, values["uhrzeitBisTicks"] = values["uhrzeitBisTicks"], None
        if ticks is not None and quirks.ticks_override:
            minutes, seconds = divmod(ticks // _TICKS % 86400, 60)
            values["uhrzeitBis"] = time(minutes // 60, minutes % 60, seconds).isoformat()
        start = values["datum"]
        if start and not start.endswith("T00:00:00") and values["uhrzeitVon"] is None:
            values["uhrzeitVon"] = start[11:]
        for name in ("datum", "datumBis"):
            if values[name]:
                values[name] = values[name][:10]
        if values["notiz"] and quirks.notiz_crlf:
            values["notiz"] = "\r\n".join(values["notiz"].splitlines())
        if values["datumBis"] and values["datumBis"] > "2038-01-19" and quirks.late_dates == "400":
            raise Refusal(400, "Das Datum liegt außerhalb des gültigen Bereichs.")

    def _derive(self, resource: Resource, values: dict[str, Any]) -> None:
        if resource is KOMMUNIKATIONEN:
            values["kommArt"] = komm_art(values["kommKz"])
        if resource is BETEILIGTE:
            parts: Iterable[str | None] = (values["name"], values["vorname"])
            values["anzeigename"] = ", ".join(part for part in parts if part)

    def _written(
        self, resource: Resource, values: dict[str, Any], user: str, given: Mapping[str, Any]
    ) -> None:
        if resource.column("rowId"):
            values["rowId"] = self.row_id()
        if resource is BETEILIGTE:
            values |= {"geaendertAm": self.stamp(), "geaendertVon": user}
        if resource is TERMINE:
            values["zuletztGeaendertAm"] = given.get("zuletztGeaendertAm") or self.stamp()
        if resource.below:
            self._touch_party(values["betNr"], user)

    def _touch_party(self, bet_nr: int, user: str) -> None:
        if self._quirks().party_row_id == "changes":
            self._written(BETEILIGTE, self.tables[BETEILIGTE.name][bet_nr].values, user, {})

    def _hide(self, row: Row, seconds: float, before: dict[str, Any] | None) -> None:
        if seconds > 0:
            row.visible_at, row.before = self._now() + timedelta(seconds=seconds), before
        else:
            row.visible_at, row.before = None, None


def _check(resource: Resource, values: Mapping[str, Any]) -> None:
    if resource is BETEILIGTE and not values["name"]:
        raise Refusal(400, "Das Feld name darf nicht leer sein.")
    if resource is KOMMUNIKATIONEN and values["kommKz"] not in range(1, 13):
        raise Refusal(400, "Der Wert des Feldes kommKz ist ungültig.")
    if resource is TERMINE and not values["datum"]:
        raise Refusal(400, "Das Feld datum darf nicht leer sein.")
    if resource is MITARBEITER and not values["kuerzel"]:
        raise Refusal(400, "Das Feld kuerzel darf nicht leer sein.")


def ticks_of(clock: str | None) -> int | None:
    """Return a time of day in .NET's ticks of 100 ns, None for none."""
    if clock is None:
        return None
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return (hours * 3600 + minutes * 60 + seconds) * _TICKS
