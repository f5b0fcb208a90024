"""The proxy's OpenAPI document, for programs that want to know how it is called."""

import json

from bitbylaw_advoware_proxy.deps import Deps
from bitbylaw_advoware_proxy.openapi import document
from bitbylaw_advoware_proxy.steps.advoware_proxy_api_step import STEPS, key_needed
from bitbylaw_common.runtime import ApiRequest, ApiResponse, Context, http, step

ROUTE = "/advoware/openapi.json"


@step(
    name="Advoware Proxy OpenAPI",
    description="Answers with the OpenAPI document of the proxy",
    flows=["advoware"],
    triggers=[http("GET", ROUTE)],
)
async def openapi(request: ApiRequest[bytes], ctx: Context[Deps]) -> ApiResponse:
    """Return the document to whoever has a key, whatever it is good for."""
    if ctx.deps.door.caller(request.headers) is None:
        return key_needed()
    return ApiResponse(200, text(), {"content-type": "application/json"})


def text() -> bytes:
    """Return the document as it is served, and as it lies in the docs."""
    return json.dumps(document([*STEPS, openapi]), indent=2, ensure_ascii=False).encode() + b"\n"
