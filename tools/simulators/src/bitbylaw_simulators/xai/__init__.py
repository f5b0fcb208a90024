"""xAI's Files and Collections as they behave over REST."""

from bitbylaw_simulators.xai.quirks import XaiQuirks
from bitbylaw_simulators.xai.state import Xai

__all__ = ["Xai", "XaiQuirks"]
