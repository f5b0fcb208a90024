"""The base of what is synced during one run, and how it is written; shared by what is synced here."""

from typing import Generic, TypeVar

from bitbylaw_common.runtime.context import Context
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.knowledge import KnowledgeState
from bitbylaw_document_sync.domain.model import DocumentBase
from bitbylaw_document_sync.domain.notices import Kind, untold

S = TypeVar("S", DocumentBase, KnowledgeState)


class Book(Generic[S]):
    """The record's base during one run: what was written last, and how to write the next."""

    def __init__(self, ctx: Context[Deps], model: type[S]) -> None:
        self._ctx = ctx
        self._intended = False
        self.base: S | None = ctx.base(model)

    async def intend(self, base: S) -> None:
        """Write what the following effects may touch. The first of a run is always written."""
        if self._intended and base.says_the_same_as(self.base):
            return
        self.base = self._stamped(base)
        await self._ctx.intend(self.base)
        self._intended = True

    async def agree(self, base: S | None) -> None:
        """Write what holds now, where it is not what was written last; None forgets the record."""
        if base is None:
            if self.base is not None:
                self.base = None
                await self._ctx.agree(None)
        elif not base.says_the_same_as(self.base):
            self.base = self._stamped(base)
            await self._ctx.agree(self.base)

    async def untell(self, kind: Kind) -> None:
        """Write that nobody was told about this after all."""
        if self.base is not None:
            told = untold(self.base.told, kind)
            await self.agree(self.base.model_copy(update={"told": told}))

    def _stamped(self, base: S) -> S:
        stamps = {"written_at": self._ctx.now(), "written_by": self._ctx.run_id}
        return base.model_copy(update=stamps)
