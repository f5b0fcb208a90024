"""Advoware as it behaves: configurator, security gateway, and the REST API behind the relay."""

from bitbylaw_simulators.advoware.gateway import Firm
from bitbylaw_simulators.advoware.quirks import AdvowareQuirks
from bitbylaw_simulators.advoware.state import Advoware

__all__ = ["Advoware", "AdvowareQuirks", "Firm"]
