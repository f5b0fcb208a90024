"""The proxy's OpenAPI document, made from what its steps declare (pure)."""

from collections.abc import Mapping, Sequence
from typing import Any

from bitbylaw_advoware_proxy.domain.rules import ALIAS, ENDPOINT, MOST_CHARACTERS
from bitbylaw_common.runtime import Step

TITLE = "BitByLaw Advoware proxy"
VERSION = "1.0.0"
"""Of what callers rely on; raised with every change of it."""

_BRINGS_A_BODY = ("POST", "PUT", "DELETE")

_ANSWERS: Mapping[str, str] = {
    "400": "the endpoint is missing or refused; or Advoware's own 400",
    "401": "no key, or an unknown one",
    "403": "the key is not good for this method and endpoint; or Advoware's own 403",
    "404": "Advoware's own: there is no such record, or no such endpoint",
    "408": "the request's body stopped coming",
    "409": "Advoware's own: the record changed meanwhile",
    "413": "the request's body is too large",
    "429": "too many calls of this key; or Advoware's own 429",
    "500": "with ADVOWARE_PROXY_STATUS=original: every error of Advoware",
    "502": "Advoware answered 5xx or 3xx, cannot be reached, or does not let the proxy in",
    "503": "Advoware is not asked at present, or the proxy is stopping: see Retry-After",
    "504": "Advoware did not answer in time",
}


def document(steps: Sequence[Step[Any, Any, Any]]) -> dict[str, Any]:
    """Return the document of these steps' routes."""
    paths: dict[str, dict[str, Any]] = {}
    for step in steps:
        for trigger in step.http_triggers:
            operation = (
                _proxied(step, trigger.method) if trigger.kind == "stream" else _described(step)
            )
            paths.setdefault(trigger.path, {})[trigger.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": VERSION,
            "description": "Passes calls on to Advoware's REST API with the firm's login. JSON comes "
            'inside {"result": ...}; anything else as it is. An error is {"error", "details"}.',
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "parameters": {"endpoint": _endpoint(), "others": _others()},
            "headers": {
                "request-id": {
                    "description": "names the call in events and logs",
                    "schema": {"type": "string"},
                },
                "retry-after": {
                    "description": "seconds after which another call may be worth it",
                    "schema": {"type": "string"},
                },
            },
            "schemas": {
                "Result": {
                    "type": "object",
                    "properties": {"result": {"description": "Advoware's JSON; null for none"}},
                    "required": ["result"],
                    "additionalProperties": False,
                },
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "details": {"type": "string"}},
                    "required": ["error"],
                },
            },
        },
        "security": [{"apikey": []}, {"bearer": []}],
    }


def _endpoint() -> dict[str, Any]:
    return {
        "name": ENDPOINT,
        "in": "query",
        "required": True,
        "description": "Advoware's path without its address: `employees`, `Beteiligte/104860`. The "
        "prefix goes before it unless it begins with `api/`. Relative, without a query of its own. "
        f"`{ALIAS}` stands in for it where it is missing.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
        "example": "employees",
    }


def _others() -> dict[str, Any]:
    return {
        "name": "others",
        "in": "query",
        "style": "form",
        "explode": True,
        "description": "every other parameter goes on to Advoware, in order and byte for byte",
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    }


def _proxied(step: Step[Any, Any, Any], method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": step.name.replace(" ", ""),
        "summary": step.name,
        "description": step.description,
        "tags": list(step.flows),
        "parameters": [
            {"$ref": "#/components/parameters/endpoint"},
            {"$ref": "#/components/parameters/others"},
        ],
        "responses": {
            "2XX": {
                "description": "Advoware's answer under its status; 204 and 205 become 200",
                "headers": _headers("x-request-id"),
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Result"}},
                    "*/*": {"schema": {}},
                },
            },
            **{status: _error(status, words) for status, words in _ANSWERS.items()},
            "4XX": _error("4XX", "Advoware's own"),
        },
    }
    if method in _BRINGS_A_BODY:
        operation["requestBody"] = {
            "required": False,
            "description": "goes on to Advoware as it is, under its content type",
            "content": {"application/json": {"schema": {}}, "*/*": {"schema": {}}},
        }
    return operation


def _described(step: Step[Any, Any, Any]) -> dict[str, Any]:
    return {
        "operationId": step.name.replace(" ", ""),
        "summary": step.name,
        "description": step.description,
        "tags": list(step.flows),
        "responses": {
            "200": {
                "description": "this document",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "401": _error("401", _ANSWERS["401"]),
        },
    }


def _error(status: str, words: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": words,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in ("429", "503"):
        found["headers"] = _headers("retry-after")
    return found


def _headers(name: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name.removeprefix('x-')}"}}
