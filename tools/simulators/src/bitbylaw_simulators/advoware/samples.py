"""A small invented firm in Advoware: parties, employees and a week of Termine, always the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bitbylaw_simulators.advoware.state import Advoware


@dataclass(frozen=True, slots=True)
class SampleFirm:
    """What was made.

    Attributes:
        beteiligte: `betNr` by name.
        termine: `frNr` by text.
        kuerzel: the employees' initials.
    """

    beteiligte: Mapping[str, int]
    termine: Mapping[str, int]
    kuerzel: tuple[str, ...]


_MITARBEITER = (
    ("SB", "Brandt", "Sabine", True),
    ("AI", "Ilgen", "Arne", True),
    ("RO", "Özdemir", "Ruth", True),
    ("XT", "Textor", "Xaver", False),
)

_BETEILIGTE: tuple[
    tuple[dict[str, Any], tuple[tuple[int, str], ...], tuple[str, str, str]], ...
] = (
    (
        {"name": "Müller", "vorname": "Jörg", "anrede": "Herr", "geburtsdatum": "1961-05-04"},
        ((1, "0511/12345-60"), (3, "0171/5550001"), (4, "joerg.mueller@example.com")),
        ("Lindenallee 3", "30159", "Hannover"),
    ),
    (
        {"name": "Weiß", "vorname": "Änne", "anrede": "Frau", "titel": "Dr."},
        ((6, "0511/5550002"), (8, "aenne@example.org")),
        ("Gänsestraße 7", "30161", "Hannover"),
    ),
    (
        {
            "name": "Beispielbau GmbH",
            "rechtsform": "GmbH",
            "handelsRegisterNummer": "HRB 4711",
            "registergericht": "Hannover",
        },
        ((1, "0221/5550003"), (2, "0221/5550004"), (5, "https://beispielbau.example.com")),
        ("Domkloster 4", "50667", "Köln"),
    ),
    (
        {"name": "Öztürk", "vorname": "Björn", "anrede": "Herr", "zusatz": "jun."},
        ((3, "0172/5550005"),),
        ("Am Büchel 12", "53111", "Bonn"),
    ),
)


def sample_firm(advoware: Advoware) -> SampleFirm:
    """Fill an empty Advoware; Termine lie in the present week of its clock."""
    for kuerzel, name, vorname, active in _MITARBEITER:
        email = f"{kuerzel.lower()}@kanzlei.example.com"
        advoware.add(
            "Mitarbeiter", kuerzel=kuerzel, name=name, vorname=vorname, email=email, aktiv=active
        )
    beteiligte: dict[str, int] = {}
    for values, contacts, (street, code, city) in _BETEILIGTE:
        number = advoware.add("Beteiligte", **values)
        beteiligte[values["name"]] = number
        for kind, value in contacts:
            advoware.add("Kommunikationen", bet_nr=number, kommKz=kind, tlf=value)
        block = f"{values['name']}\n{street}\n{code} {city}"
        advoware.add(
            "Adressen", bet_nr=number, strasse=street, plz=code, ort=city, anschrift=block,
            standardAnschrift=True,
        )  # fmt: skip
    advoware.add(
        "Bankverbindungen", bet_nr=beteiligte["Müller"], auftraggeber="Jörg Müller",
        bank="Musterbank", iban="DE89370400440532013000", bic="COBADEFFXXX",
    )  # fmt: skip
    return SampleFirm(beteiligte, _termine(advoware), tuple(row[0] for row in _MITARBEITER))


def _termine(advoware: Advoware) -> dict[str, int]:
    today = advoware.clock.now().date()
    monday = today - timedelta(days=today.weekday())

    def day(number: int) -> str:
        return (monday + timedelta(days=number)).isoformat()

    week: tuple[dict[str, Any], ...] = (
        {
            "datum": day(0), "uhrzeitVon": "09:00", "uhrzeitBis": "09:30", "anwalt": "SB",
            "text": "Besprechung Müller ./. Weiß", "notiz": "Unterlagen mitbringen\nRaum 2",
        },
        {
            "datum": day(1), "uhrzeitVon": "10:15", "uhrzeitBis": "11:45", "anwalt": "SB",
            "text": "Verhandlung Landgericht", "ort": "Hannover, Saal 127",
            "vorbereitungsDauer": "00:30", "hinfahrt": "00:45", "rueckfahrt": "00:45",
        },
        {
            "datum": day(0), "datumBis": "2037-12-31", "uhrzeitVon": "08:30", "uhrzeitBis": "09:00",
            "anwalt": "ALLE", "text": "Wochenbesprechung", "dauertermin": 1, "turnus": 1,
            "turnusArt": 2,
        },
        {
            "datum": day(2), "datumBis": day(4), "uhrzeitVon": "09:00", "uhrzeitBis": "17:00",
            "anwalt": "AI", "text": "Fortbildung Mietrecht",
        },
        {
            "datum": day(3), "datumBis": day(3), "uhrzeitVon": "00:00", "uhrzeitBis": "23:59",
            "anwalt": "RO", "text": "Abwesend", "abwesenheit": 1,
        },
        {
            "datum": day(4), "uhrzeitVon": "16:00", "uhrzeitBis": "16:30", "anwalt": "AI",
            "text": "Arzt", "privat": 1,
        },
        {"datum": day(4), "anwalt": "RO", "text": "Frist ohne Uhrzeit"},
    )  # fmt: skip
    made = {str(entry["text"]): advoware.add("Termine", **entry) for entry in week}
    advoware.add("Urlaube", kuerzel="AI", datum=day(7), datumBis=day(11))
    return made
