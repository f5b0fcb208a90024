"""The webhooks that EspoCRM has registered for our API user: read, made, changed.

An API user sees its own webhooks only, and only where its role allows "Webhooks".
"""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from bitbylaw_common.clients.espocrm import SYSTEM, EspoCRM
from bitbylaw_common.errors import Transient
from bitbylaw_common.registrations import Change, Registration

ENTITY = "Webhook"
_SHOWN = ("event", "url", "isActive", "skipOwn", "userId")


class EspoWebhooks:
    """EspoCRM's webhook records. Every method may raise an `OutsideError` of "espocrm"."""

    def __init__(self, client: EspoCRM) -> None:
        self._client = client

    async def user_id(self) -> str:
        """Return the id of the API user that the key belongs to."""
        user = (await self._client.app_user()).get("user")
        found = user.get("id") if isinstance(user, Mapping) else None
        if not isinstance(found, str) or not found:
            raise Transient(SYSTEM, "app_user", status=200, detail="the answer names no user")
        return found

    async def registrations(self) -> tuple[Registration, ...]:
        """Return every webhook that our API user may see.

        Raises:
            Invalid: its role does not allow "Webhooks".
        """
        rows = self._client.list_all(ENTITY, select=_SHOWN, order_by="id")
        return tuple([_registration(row) async for row in rows])

    async def secrets(self) -> Mapping[str, SecretStr]:
        """Return the secret of every webhook that our API user may see, by the webhook's id."""
        found: dict[str, SecretStr] = {}
        async for row in self._client.list_all(ENTITY, select=["secretKey"], order_by="id"):
            secret = row.get("secretKey")
            if isinstance(secret, str) and secret:
                found[str(row["id"])] = SecretStr(secret)
        return found

    async def create(self, event: str, url: str) -> Registration:
        """Register a webhook of our API user, active and with skipOwn; twice makes two.

        Raises:
            Invalid: EspoCRM posts to no such address (webhookAllowedAddressList), or our user has
                as many webhooks as it may have.
        """
        values = {"event": event, "url": url, "isActive": True, "skipOwn": True}
        return _registration(await self._client.create_entity(ENTITY, values))

    async def change(self, change: Change) -> None:
        """Change a registration; may be repeated."""
        values: dict[str, Any] = {}
        if change.url is not None:
            values["url"] = change.url
        if change.activate:
            values["isActive"] = True
        if change.skip_own:
            values["skipOwn"] = True
        await self._client.update_entity(ENTITY, change.registration.id, values)

    async def deactivate(self, registration_id: str) -> None:
        """Switch a webhook off; may be repeated."""
        await self._client.update_entity(ENTITY, registration_id, {"isActive": False})


def _registration(row: Mapping[str, Any]) -> Registration:
    user = row.get("userId")
    return Registration(
        id=str(row.get("id", "")),
        event=str(row.get("event") or ""),
        url=str(row.get("url") or ""),
        active=row.get("isActive") is True,
        skip_own=row.get("skipOwn") is True,
        user_id=user if isinstance(user, str) and user else None,
    )
