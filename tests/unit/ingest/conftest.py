"""Two ingests: one that believes anybody, one that asks for signatures."""

import pytest

from bitbylaw_ingest.deps import Deps
from unit.ingest.posts import SECRET, WEBHOOK_ID, Ingest


@pytest.fixture
def ingest() -> Ingest:
    """ingest that believes anybody."""
    return Ingest(Deps({}, accepts_unsigned=True))


@pytest.fixture
def guarded() -> Ingest:
    """ingest that knows one webhook's secret."""
    return Ingest(Deps({WEBHOOK_ID: (SECRET,)}, accepts_unsigned=False))
