"""Whatever is asked, a simulator answers with a status of the system it stands for."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from(["faults", "clock", "quirks", "edit", "deliver", "x"]),
    body=bodies(st.sampled_from(["action", "id", "entity", "values", "advance", "kind", "match"])),
)
async def test_the_control_face_answers_whatever_is_asked(path: str, body: bytes) -> None:
    simulator = EspoCRM()

    answer = await simulator.handle(SimRequest("POST", f"/_sim/{path}", body=body))

    assert answer.status in {200, 400, 404}
