"""The proxy's OpenAPI document, fuzzed: whatever it allows and forbids is sent, nothing breaks."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from bitbylaw_advoware_proxy.steps.advoware_openapi_api_step import text
from contract.proxied import Office, office

DOCUMENT = json.loads(text())
VERBS = ("GET", "POST", "PUT", "DELETE")
PLACES = (
    "employees", "Mitarbeiter", "appointments/12345", "Beteiligte", "Beteiligte/104860", "Termine",
    "Beteiligte/104860/Adressen", "Beteiligte/104860/Bankverbindungen", "api/v1/Akten", "Sim/echo",
    "Sim/mirror", "Sim/status/500", "Sim/status/204", "Sim/status/302", "Sim/bytes/100000",
)  # fmt: skip
"""Real endpoints among the generated ones, or nearly all would be answered 404."""


class Served(threading.Thread):
    """The proxy and its simulator on a loop of their own; the fuzz calls from this thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.up = threading.Event()
        self.office: Office | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with office() as self.office:
            self.up.set()
            await self._stopping.wait()

    def stop(self) -> None:
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(20)
        assert not self.is_alive()


@pytest.fixture
def running() -> Iterator[Office]:
    served = Served()
    served.start()
    assert served.up.wait(20)
    assert served.office is not None
    yield served.office
    served.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(
    running: Office, cases: int, verb: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)["/advoware/proxy"][verb]
    documented = DOCUMENT["paths"]["/advoware/proxy"][verb.lower()]["responses"]
    schemas = DOCUMENT["components"]["schemas"]
    answered: Counter[int] = Counter()

    @settings(
        max_examples=max(1, cases // (len(VERBS) * len(GenerationMode))),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],  # a found case is told as it is, not made smaller
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), place=st.sampled_from((None, *PLACES)))
    def ask(case: Any, place: str | None) -> None:
        if place is not None:
            case.query = {**(case.query or {}), "endpoint": place}
        if case.media_type is not None:
            case.media_type = "application/json"  # whatever it is called, it has to be written down
        answer = case.call(base_url=running.url, timeout=20)
        status = answer.status_code
        answered[status] += 1
        asked = f"{verb} {answer.request.url} -> {status}"
        assert f"{status}" in documented or f"{status // 100}XX" in documented, asked
        if status >= 500:  # the simulator's own, never ours
            assert status == 502, asked
            assert place is not None, asked
            assert place.startswith("Sim/status/"), asked
        if status >= 400:
            jsonschema.validate(answer.json(), schemas["Error"])
        elif answer.headers["content-type"][0] == "application/json":
            jsonschema.validate(answer.json(), schemas["Result"])

    ask()

    assert answered[200] > 0
    assert answered.keys() & {400, 404}
    assert not [line for line in running.lines() if "exception" in line or line["level"] == "error"]
