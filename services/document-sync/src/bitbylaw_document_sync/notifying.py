"""Tells people in the CRM what a plan says they must know; shared by what is synced here."""

from collections.abc import Awaitable, Callable

from bitbylaw_common.errors import Invalid, NotFound, OutsideError
from bitbylaw_common.runtime.context import Context
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.notices import About, CloseTask, Kind, Notify
from bitbylaw_document_sync.domain.texts import SUBJECTS


async def notify(
    action: Notify, about: About, ctx: Context[Deps], unsay: Callable[[Kind], Awaitable[None]]
) -> None:
    """Tell the user; a CRM that will never take it is warned of, and the sync goes on.

    Args:
        action: what to say, and to whom.
        about: the record.
        ctx: of the run.
        unsay: writes into the base that nobody was told, because nothing can have been sent.

    Raises:
        OutsideError: it failed; where it is ambiguous, a message counts as sent.
    """
    trouble, messages = action.trouble, ctx.deps.messages
    subject = SUBJECTS[trouble.kind]
    method = "create_task" if trouble.means == "task" else "create_notification"
    try:
        async with ctx.effect("espocrm", method, target=about.id, fields={"kind": trouble.kind}):
            if trouble.means == "task":
                await messages.open_task(about, action.user_id, subject, trouble.text)
            else:
                await messages.message(about, action.user_id, subject, trouble.text)
    except (Invalid, NotFound) as refused:
        ctx.logger.warning(
            "EspoCRM does not let us tell a person", kind=trouble.kind.value, reason=str(refused)
        )
    except OutsideError as error:
        if not error.ambiguous:
            await unsay(trouble.kind)
        raise


async def close_task(action: CloseTask, about: About, ctx: Context[Deps]) -> None:
    """Complete the task, wherever it still is open."""
    try:
        async with ctx.effect(
            "espocrm", "complete_task", target=about.id, fields={"kind": action.kind}
        ):
            await ctx.deps.messages.complete_task(about, SUBJECTS[action.kind])
    except (Invalid, NotFound) as refused:
        ctx.logger.warning(
            "EspoCRM does not let us complete a task", kind=action.kind.value, reason=str(refused)
        )
