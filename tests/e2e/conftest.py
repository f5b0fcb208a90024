"""How hard the whole system is tried: `pytest tests/e2e/test_document_kills.py --full-kills`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for more than continuous integration has time for."""
    parser.getgroup("e2e", "the whole system").addoption(
        "--full-kills",
        action="store_true",
        help="2,000 events over 200 documents and twenty kills for each seed",
    )
