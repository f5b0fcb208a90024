"""Whatever is asked, a simulator answers with a status of the system it stands for."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitbylaw_simulators.advoware import Advoware, AdvowareQuirks
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.samples import sample_world
from bitbylaw_simulators.wire import SimRequest
from bitbylaw_simulators.xai import Xai

ESPOCRM, XAI = EspoCRM(), Xai()
WORLD = sample_world(ESPOCRM, XAI)
DOCUMENT = next(iter(WORLD.documents.values()))
COLLECTION = next(iter(WORLD.collections.values()))
FILE = XAI.add_file("Klage.pdf", b"Klage")

texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["name", "id", "ids", "equals", "or", "value", "type", "attribute", "DE1", DOCUMENT, FILE]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 500), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
espo_names = st.sampled_from(
    [
        "where", "searchParams", "maxSize", "offset", "orderBy", "order", "select", "name", "iban",
        "fileStatus", "xaiCollections", "dokumentId", "event", "url", "file", "field", "size",
        "relatedType", "isBeingUploaded", "emailAddressData", "emailAddress", "id", "ids",
        "where[0][type]", "where[0]", "where[0][value][]", "cAIKnowledgesIds", "message", "data",
    ]
)  # fmt: skip
xai_names = st.sampled_from(
    [
        "collection_name", "field_definitions", "field_definition_updates", "fields", "query",
        "source", "limit", "index_configuration", "chunk_configuration", "collection_description",
        "sort_by", "order", "pagination_token", "filter", "file_ids", "name",
    ]
)  # fmt: skip
espo_parts = st.sampled_from(
    [
        "CDokumente", "CBeteiligte", "CBankverbindungen", "Webhook", "Attachment", "Notification",
        "Task", "User", "Metadata", "App", "user", "file", "chunk", DOCUMENT, "cAIKnowledges",
        "CAIKnowledge", "assignedUser", "dokumentes", "x", "ä",
    ]
)  # fmt: skip
espo_paths = st.lists(espo_parts, min_size=1, max_size=3).map("/".join)
xai_paths = st.sampled_from(
    [
        "files", f"files/{FILE}", "files/x/content", "collections", f"collections/{COLLECTION}",
        f"collections/{COLLECTION}/documents", f"collections/{COLLECTION}/documents/{FILE}",
        f"collections/{COLLECTION}/documents:batchGet", "documents/search", "api-key", "x",
    ]
)  # fmt: skip
advoware_names = st.sampled_from(
    [
        "name", "vorname", "geburtsdatum", "rowId", "betNr", "tlf", "kommKz", "online", "strasse",
        "gueltigBis", "iban", "datum", "datumBis", "uhrzeitVon", "uhrzeitBis", "uhrzeitBisTicks",
        "anwalt", "dauertermin", "turnus", "nr", "vorbereitungsDauer", "hinfahrt", "rueckfahrt",
        "erinnerungsDatum", "frnr", "from", "to", "kuerzel", "limit", "offset", "seed", "notiz",
        "zuletztGeaendertAm", "AppID", "Nonce", "Product", "RequestTimeStamp",
    ]
)  # fmt: skip
advoware_paths = st.sampled_from(
    [
        "Beteiligte", "Beteiligte/104860", "Beteiligte/104860/Kommunikationen", "Beteiligte/²",
        "Beteiligte/104860/Kommunikationen/88001", "Beteiligte/104860/Adressen",
        "Beteiligte/104860/Adressen/70001", "Beteiligte/104860/Bankverbindungen", "Termine",
        "Beteiligte/104860/Bankverbindungen/30001", "appointments/500001", "employees",
        "license/KuerzelForProduct/1", "Sim/echo", "Sim/bytes/5", "Sim/status/201", "Sim/x", "x",
    ]
)  # fmt: skip
advoware_values = st.one_of(
    values,
    st.sampled_from(["2026-03-09", "2026-03-09T10:00:00", "23:59", "00:30:00", "SB", 500001]),
)
advoware_manners = st.sampled_from(
    [
        {}, {"key_case": "pascal", "null_keys": False}, {"read_only_fields": "400"},
        {"termin_times": "in_datum", "termin_dates": "date"}, {"full_object_put": False},
        {"row_id_required": [], "stale_row_id": "accepted"}, {"termin_stamp": "client"},
        {"delete_below": "deletes", "bank_changes": "allowed", "address_index": "position"},
        {"read_only_kommunikation": [], "read_only_adressen": [], "komm_kz": "real"},
    ]
)  # fmt: skip
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])


def bodies(names: Any) -> Any:
    """Return bodies that are nearly right: objects with known names, or any JSON, or any bytes."""
    objects = st.dictionaries(names, values, max_size=4)
    return st.one_of(
        objects.map(lambda body: json.dumps(body).encode()),
        values.map(lambda body: json.dumps(body).encode()),
        st.binary(max_size=16),
    )


def queries(names: Any) -> Any:
    return st.lists(st.tuples(names, st.one_of(texts, values.map(json.dumps))), max_size=4)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(method=methods, path=espo_paths, body=bodies(espo_names), query=queries(espo_names))
async def test_espocrm_answers_whatever_is_asked(
    method: str, path: str, body: bytes, query: list[tuple[str, str]]
) -> None:
    headers = {"X-Api-Key": str(ESPOCRM.api_user.api_key)}

    answer = await ESPOCRM.handle(SimRequest(method, f"/api/v1/{path}", query, headers, body))

    assert answer.status in {200, 400, 403, 404, 409, 500}


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(method=methods, path=xai_paths, body=bodies(xai_names), query=queries(xai_names))
async def test_xai_answers_whatever_is_asked(
    method: str, path: str, body: bytes, query: list[tuple[str, str]]
) -> None:
    key = XAI.management_key if path.startswith("collections") else XAI.api_key
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=b"}

    answer = await XAI.handle(SimRequest(method, f"/v1/{path}", query, headers, body))

    assert answer.status in {200, 400, 403, 404, 409, 413, 500}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=methods,
    path=advoware_paths,
    body=st.one_of(
        st.dictionaries(advoware_names, advoware_values, max_size=6).map(
            lambda body: json.dumps(
                {"datum": "2026-03-09", "name": "x", "kommKz": 1} | body
            ).encode()
        ),
        bodies(advoware_names),
    ),
    query=queries(advoware_names),
    manner=advoware_manners,
)
async def test_advoware_answers_whatever_is_asked_and_stays_readable(
    method: str, path: str, body: bytes, query: list[tuple[str, str]], manner: dict[str, Any]
) -> None:
    advoware = Advoware()
    sample_firm(advoware)
    token = advoware.gateway.issue("SB", advoware.clock.now())
    headers = {"Authorization": f"Bearer {token}"}
    advoware.switch(manner)

    answer = await advoware.handle(
        SimRequest(method, f"/api/v1/advonet/{path}", query, headers, body)
    )

    assert answer.status in {200, 201, 204, 400, 403, 404, 405, 409}
    for listed in ("Termine", "Beteiligte"):
        read = SimRequest("GET", f"/api/v1/advonet/{listed}", headers=headers)
        assert (await advoware.handle(read)).status == 200
    again = Advoware(quirks=AdvowareQuirks())
    again.load(json.loads(json.dumps(advoware.state())))
    assert again.state()["tables"] == advoware.state()["tables"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    simulator=st.sampled_from([EspoCRM, Advoware]),
    path=st.sampled_from(["faults", "clock", "quirks", "edit", "deliver", "revoke", "x"]),
    body=bodies(
        st.sampled_from(
            [
                "action", "id", "entity", "values", "advance", "kind", "match", "resource",
                "number", "betNr", "user",
            ]
        )
    ),
)  # fmt: skip
async def test_the_control_face_answers_whatever_is_asked(
    simulator: type[EspoCRM] | type[Advoware], path: str, body: bytes
) -> None:
    answer = await simulator().handle(SimRequest("POST", f"/_sim/{path}", body=body))

    assert answer.status in {200, 400, 404}
