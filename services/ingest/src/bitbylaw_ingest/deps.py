"""What the webhook steps need, and how it is opened."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.context import StepLogger
from bitbylaw_ingest.domain.signature import Secrets
from bitbylaw_ingest.settings import IngestSettings


class RecentMarks:
    """The marks of the last items stored by this process, to count what is posted again.

    Args:
        limit: how many are remembered; the oldest is forgotten first.
    """

    def __init__(self, limit: int = 50_000) -> None:
        self._limit = limit
        self._marks: OrderedDict[str, None] = OrderedDict()

    def remember(self, marks: Iterable[str]) -> int:
        """Remember the marks and return how many were known already."""
        known = 0
        for mark in marks:
            known += mark in self._marks
            self._marks[mark] = None
            self._marks.move_to_end(mark)
        while len(self._marks) > self._limit:
            self._marks.popitem(last=False)
        return known


@dataclass(frozen=True, slots=True)
class Deps:
    """What the webhook steps need.

    Attributes:
        secrets: by webhook id; never logged.
        accepts_unsigned: whether posts are believed without a signature; never together with
            secrets.
        recent: what was stored lately.
    """

    secrets: Secrets
    accepts_unsigned: bool
    recent: RecentMarks = field(default_factory=RecentMarks)

    def __repr__(self) -> str:
        return f"Deps({len(self.secrets)} webhooks, accepts_unsigned={self.accepts_unsigned})"


@asynccontextmanager
async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Deps]:
    """Open what the environment describes; warn once when it believes everybody or nobody.

    Raises:
        SettingsError: a setting does not fit, or posts would be open to anybody who can reach
            the port.
    """
    deps = deps_of(IngestSettings.from_env(env), step_logger(service="ingest"))
    yield deps


def deps_of(settings: IngestSettings, logger: StepLogger) -> Deps:
    """Return what `settings` describe.

    Raises:
        SettingsError: as `open_deps`.
    """
    deps = Deps(settings.secrets, settings.accepts_unsigned)
    if deps.accepts_unsigned:
        logger.warning(
            "webhooks are accepted without a signature: anybody who reaches the port can post them",
            host=settings.runtime.http_host,
            remedy="set ESPOCRM_WEBHOOK_SECRETS",
        )
    elif not deps.secrets:
        logger.warning(
            "every webhook will be refused: INGEST_UNSIGNED=reject, and no webhook has a secret",
            remedy="set ESPOCRM_WEBHOOK_SECRETS",
        )
    return deps
