"""The runtime: declare steps, name them in an app, let a host run them."""

from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.context import Context, Emit
from bitbylaw_common.runtime.step import Step, step
from bitbylaw_common.runtime.triggers import ApiRequest, ApiResponse, Tick, cron, http, queue

__all__ = [
    "ApiRequest",
    "ApiResponse",
    "App",
    "Context",
    "Emit",
    "Step",
    "Tick",
    "cron",
    "http",
    "queue",
    "step",
]
