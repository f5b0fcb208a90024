"""The OpenAPI document: in the docs as it is served, and true to what the steps declare."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bitbylaw_advoware_proxy.app import app
from bitbylaw_advoware_proxy.steps.advoware_openapi_api_step import text

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "docs" / "openapi" / "advoware-proxy.json"


@pytest.fixture
def document() -> dict[str, Any]:
    return dict(json.loads(text()))


def test_the_document_in_docs_is_the_one_that_is_served() -> None:
    assert KEPT.read_bytes() == text()


def test_every_route_of_the_app_is_described_and_no_other(document: dict[str, Any]) -> None:
    declared = {(t.path, t.method.lower()) for step in app.steps for t in step.http_triggers}
    described = {(path, verb) for path, verbs in document["paths"].items() for verb in verbs}
    assert described == declared


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*(references(one) for one in value.values()))
        return (
            set().union(*(references(one) for one in value)) if isinstance(value, list) else set()
        )

    found = references(document)
    assert len(found) >= 6
    for reference in found:
        place: Any = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_the_schemas_of_answers_fit_what_is_answered(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    jsonschema.validate({"result": None}, schemas["Result"])
    jsonschema.validate({"error": "Endpoint required as query param"}, schemas["Error"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"data": 1}, schemas["Result"])
