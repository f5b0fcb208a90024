"""EspoCRM as it behaves: REST API, files, links and webhooks."""

from bitbylaw_simulators.espocrm.quirks import EspoQuirks
from bitbylaw_simulators.espocrm.state import EspoCRM
from bitbylaw_simulators.espocrm.webhooks import Delivery

__all__ = ["Delivery", "EspoCRM", "EspoQuirks"]
