"""The control face `/_sim`: what a test sees of a simulator, and moves in it, from outside."""

import asyncio
from typing import TYPE_CHECKING, Any

from bitbylaw_simulators.calls import as_json
from bitbylaw_simulators.faults import KINDS, parse_fault
from bitbylaw_simulators.wire import SimRequest, SimResponse, json_answer

if TYPE_CHECKING:
    from bitbylaw_simulators.simulator import Simulator

LONGEST_WAIT = 60.0
"""Seconds a long poll is held at most."""


async def answer(simulator: "Simulator", request: SimRequest) -> SimResponse:
    """Answer a call to the control face; 400 says what is wrong with it, 404 what there is."""
    key = (request.method, request.path.removeprefix("/_sim").strip("/"))
    try:
        own = await simulator.control(request)
        if own is not None:
            return own
        if key == ("GET", "requests"):
            return await _requests(simulator, request)
        return _answer(simulator, key, request)
    except (ValueError, KeyError, TypeError) as error:
        return json_answer({"error": f"{type(error).__name__}: {error}"}, 400)


def _answer(simulator: "Simulator", key: tuple[str, str], request: SimRequest) -> SimResponse:
    match key:
        case ("GET", "state"):
            return json_answer(simulator.state())
        case ("POST", "reset"):
            simulator.reset()
            return json_answer({"reset": True})
        case ("GET", "faults"):
            return json_answer({"faults": simulator.faults.dump(), "kinds": KINDS})
        case ("POST", "faults"):
            return _plan(simulator, request)
        case ("DELETE", "faults"):
            simulator.faults.clear()
            return json_answer({"faults": []})
        case ("GET", "clock"):
            return json_answer({"now": simulator.clock.now().isoformat()})
        case ("POST", "clock"):
            now = simulator.clock.advance(_seconds(request.json()))
            return json_answer({"now": now.isoformat()})
        case ("GET", "quirks"):
            return json_answer({"quirks": simulator.quirk_list()})
        case ("POST", "quirks"):
            simulator.switch(json_object(request.json()))
            return json_answer({"quirks": simulator.quirk_list()})
        case _:
            paths = "state requests faults clock quirks reset"
            return json_answer({"error": f"not a control path; there are: {paths}"}, 404)


async def _requests(simulator: "Simulator", request: SimRequest) -> SimResponse:
    since = int(request.parameter("since") or 0)
    wait = min(float(request.parameter("wait") or 0), LONGEST_WAIT)
    calls = await simulator.requests.wait(since, wait)
    if len(calls) > 5_000:
        # a long log is worded in a thread, so that others need not wait for it
        listed = await asyncio.to_thread(lambda: [as_json(call) for call in calls])
    else:
        listed = [as_json(call) for call in calls]
    return json_answer({"requests": listed, "last": simulator.requests.last})


def _plan(simulator: "Simulator", request: SimRequest) -> SimResponse:
    body = request.json()
    if isinstance(body, dict) and "faults" in body:
        body = body["faults"]
    faults = [parse_fault(entry) for entry in (body if isinstance(body, list) else [body])]
    if request.parameter("add"):
        simulator.faults.add(faults)
    else:
        simulator.faults.replace(faults)
    return json_answer({"faults": simulator.faults.dump()})


def _seconds(body: Any) -> float:
    wanted = json_object(body)
    if set(wanted) - {"advance", "seconds"} or not wanted:
        raise ValueError('the clock takes {"advance": seconds}')
    return float(wanted.get("advance", wanted.get("seconds", 0)))


def json_object(body: Any) -> dict[str, Any]:
    """Return a decoded body that must be an object.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(body, dict):
        raise TypeError("the body must be a JSON object")
    return body
