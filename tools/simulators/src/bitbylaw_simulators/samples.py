"""A small invented firm: knowledge bases, documents and the nine webhooks, with fixed ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitbylaw_simulators.espocrm.state import PERSON, EspoCRM
from bitbylaw_simulators.xai.state import Xai

ENTITIES: dict[str, str] = {
    "beteiligte": "CBeteiligte",
    "bankverbindungen": "CBankverbindungen",
    "document": "CDokumente",
}
"""The entity's name in a webhook's address, and its name in the CRM."""

ACTIONS = ("create", "update", "delete")


@dataclass(frozen=True, slots=True)
class SampleWorld:
    """What was made.

    Attributes:
        collections: collection id by name.
        knowledge: knowledge base id by name.
        documents: document id by name.
        webhooks: secret by webhook id.
    """

    collections: Mapping[str, str]
    knowledge: Mapping[str, str]
    documents: Mapping[str, str]
    webhooks: Mapping[str, str] = field(default_factory=dict)


_CASES = {
    "Akte Müller ./. Weiß": "collection_00000000-0000-4000-8000-000000000001",
    "Räumung Gänsestraße 7": "collection_00000000-0000-4000-8000-000000000002",
    "Mietinkasso Köln": "collection_00000000-0000-4000-8000-000000000003",
}


def pdf(*lines: str) -> bytes:
    """Return a small PDF with one page of text, good enough to open and to search."""
    shown = " ".join(f"({line}) Tj 0 -16 Td" for line in lines)
    stream = f"BT /F1 12 Tf 60 780 Td {shown} ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] %s >>"
        % b"/Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        start,
    )
    return bytes(out)


_DOCUMENTS: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    (
        "Klageschrift Müller.pdf",
        pdf("Klage auf Zahlung", "Klaeger: Jörg Müller, erfunden", "Streitwert 4.200 EUR"),
        ("Akte Müller ./. Weiß",),
    ),
    (
        "Erwiderung Weiß.pdf",
        pdf("Klageerwiderung", "Beklagte: Änne Weiß, erfunden"),
        ("Akte Müller ./. Weiß",),
    ),
    (
        "Räumungsklage Gänsestraße.pdf",
        pdf("Raeumungsklage", "Mietrückstand seit Januar"),
        ("Räumung Gänsestraße 7", "Mietinkasso Köln"),
    ),
    (
        "Kündigung.txt",
        "Fristlose Kündigung wegen Mietrückstands (erfunden).\n".encode(),
        ("Räumung Gänsestraße 7",),
    ),
    (
        "Übergabeprotokoll.txt",
        "Übergabe der Wohnung: Zählerstände, Schlüssel (erfunden).\n".encode(),
        ("Räumung Gänsestraße 7",),
    ),
    (
        "Mahnung Köln.pdf",
        pdf("Zweite Mahnung", "Schuldner: Björn Öztürk, erfunden"),
        ("Mietinkasso Köln",),
    ),
    ("Notiz.txt", "Rückruf erbeten (erfunden).\n".encode(), ()),
    ("Vollmacht.pdf", pdf("Vollmacht", "Unterschrift fehlt noch"), ()),
)


def sample_world(
    espocrm: EspoCRM,
    xai: Xai,
    *,
    webhook_base: str | None = None,
    announced: bool = False,
) -> SampleWorld:
    """Fill both simulators with the same invented world; ids and secrets are always the same.

    Args:
        espocrm: an empty one.
        xai: an empty one.
        webhook_base: where the nine webhooks post, as "http://127.0.0.1:3111"; none registers none.
        announced: whether the webhooks tell of the documents that are made here.
    """
    webhooks = nine_webhooks(espocrm, webhook_base) if webhook_base else {}
    collections = {name: xai.add_collection(name, cid) for name, cid in _CASES.items()}
    knowledge = {
        name: _renamed(espocrm, "CAIKnowledge", espocrm.add_knowledge(name, cid), 0xA0 + number)
        for number, (name, cid) in enumerate(collections.items(), start=1)
    }
    documents: dict[str, str] = {}
    for number, (name, content, cases) in enumerate(_DOCUMENTS, start=1):
        made = espocrm.add_document(name, content, silent=True)
        documents[name] = _renamed(espocrm, "CDokumente", made, 0xD0 + number)
        for case in cases:
            espocrm.link(documents[name], knowledge[case], silent=True)
        if announced:
            _announce(espocrm, documents[name])
    return SampleWorld(collections, knowledge, documents, webhooks)


def nine_webhooks(espocrm: EspoCRM, base: str, *, skip_own: bool = False) -> dict[str, str]:
    """Register the nine webhooks of our API user at `base`; return their fixed secrets by fixed ids."""
    secrets: dict[str, str] = {}
    pairs = [(entity, action) for entity in ENTITIES for action in ACTIONS]
    for number, (entity, action) in enumerate(pairs, start=1):
        webhook_id = f"65f0c1d2e3a4b5c{number:02x}"
        secrets[webhook_id] = f"{number:02x}" * 16
        espocrm.add_webhook(
            f"{ENTITIES[entity]}.{action}",
            f"{base.rstrip('/')}/vmh/webhook/{entity}/{action}",
            webhook_id=webhook_id,
            secret=secrets[webhook_id],
            skip_own=skip_own,
            user=espocrm.api_user,
        )
    return secrets


def _renamed(espocrm: EspoCRM, entity: str, record_id: str, number: int) -> str:
    """Give a record its fixed id."""
    fixed = f"69a68b9cd4c0{number:05x}"
    table = espocrm.store.tables[entity]
    row = table.pop(record_id)
    row.values["id"] = fixed
    table[fixed] = row
    return fixed


def _announce(espocrm: EspoCRM, record_id: str) -> None:
    payload = {n: v for n, v in espocrm.document(record_id).items() if v is not None}
    espocrm.webhooks.record("CDokumente.create", "CDokumente", record_id, payload, PERSON.id)
