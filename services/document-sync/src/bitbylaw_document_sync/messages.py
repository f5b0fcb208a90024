"""Notifications and tasks in EspoCRM."""

import re
from collections.abc import Mapping
from typing import Any

from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.errors import Invalid
from bitbylaw_document_sync.domain.notices import About

_OVER = ("Completed", "Canceled")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


class EspoMessages:
    """What people are told in EspoCRM. Every method may raise an `OutsideError` of "espocrm"."""

    def __init__(self, client: EspoCRM) -> None:
        self._client = client

    async def message(self, about: About, user_id: str, subject: str, text: str) -> None:
        """Send a notification with a link to the record; twice sends two.

        Raises:
            Invalid: EspoCRM will not take it.
        """
        await self._client.create_entity(
            "Notification",
            {
                "type": "Message",
                "userId": user_id,
                # The client reads Markdown, and puts a link to the record for {entity}.
                "message": f"**{_escaped(subject)}**: {{entity}}\n\n{_escaped(text)}",
                "data": {
                    "entityType": about.entity_type,
                    "entityId": about.id,
                    "entityName": about.name,
                },
            },
        )

    async def open_task(self, about: About, user_id: str, subject: str, text: str) -> None:
        """Open a task about the record, unless one of this subject is open; may be repeated.

        A CRM that allows no tasks for such a record is told by a notification instead.

        Raises:
            Invalid: EspoCRM takes neither.
        """
        if await self._open(about, subject):
            return
        values: Mapping[str, Any] = {
            "name": subject,
            "status": "Not Started",
            "priority": "Normal",
            "assignedUserId": user_id,
            "parentType": about.entity_type,
            "parentId": about.id,
            "description": text,
        }
        try:
            await self._client.create_entity("Task", values)
        except Invalid:
            await self.message(about, user_id, subject, text)

    async def complete_task(self, about: About, subject: str) -> None:
        """Complete the open tasks of this subject about the record; may be repeated."""
        for task_id in await self._open(about, subject):
            await self._client.update_entity("Task", task_id, {"status": _OVER[0]})

    async def _open(self, about: About, subject: str) -> list[str]:
        where: list[Mapping[str, Any]] = [
            {"type": "equals", "attribute": "parentType", "value": about.entity_type},
            {"type": "equals", "attribute": "parentId", "value": about.id},
            {"type": "equals", "attribute": "name", "value": subject},
            {"type": "notIn", "attribute": "status", "value": list(_OVER)},
        ]
        rows = self._client.list_all("Task", where=where, select=["id"])
        return [str(row["id"]) async for row in rows]


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", text)
