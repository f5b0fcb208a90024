"""EspoCRM's webhook records beside the nine that there should be: what differs, and mending it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

from bitbylaw_cli.connection import Environment
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.clients.espocrm_webhooks import EspoWebhooks
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import Invalid, Transient
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.registrations import (
    Change,
    Create,
    Deactivate,
    Leave,
    Mend,
    Registration,
    Wanted,
    chosen,
    findings,
    mending,
    shown_url,
)
from bitbylaw_common.settings import EspoSettings, WebhookSettings
from bitbylaw_common.webhooks import WEBHOOKS

SECRET_FILE_MODE = 0o600


class WebhookStand(BaseModel):
    """One of the nine webhooks as EspoCRM has it.

    Attributes:
        event: what EspoCRM posts it for.
        route: the path of ingest.
        id: of EspoCRM's record; empty where there is none.
        url: where it posts, without a key in it; empty where there is none.
        believed: whether ingest has its secret, as ESPOCRM_WEBHOOK_SECRETS says; "unset" where
            that has none at all.
        faults: what is wrong with it, in words that follow its name; empty where nothing is.
    """

    model_config = ConfigDict(frozen=True)

    event: str
    route: str
    id: str
    url: str
    active: bool
    believed: Literal["yes", "no", "unset"]
    faults: tuple[str, ...]


class WebhookMend(BaseModel):
    """One thing that is to be done about a webhook, or was.

    Attributes:
        kind: "leave" names what must or may be done by others, or later.
        id: of EspoCRM's record; of one that is to be made, empty until it is made.
        what: in words.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["create", "change", "deactivate", "leave"]
    event: str
    id: str
    what: str


class CrmSetting(BaseModel):
    """A setting of EspoCRM's `data/config.php` that we advise."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: str
    why: str


class WebhookPlan(BaseModel):
    """The nine webhooks in EspoCRM, what stands or stood between them and what they should be.

    Attributes:
        crm: EspoCRM's API.
        ingest: where EspoCRM reaches ingest; empty where nobody said.
        webhooks: the nine, as they are now.
        mends: what is to be done; with `written` what was done.
        secrets_wanted: ids of webhooks whose secret ESPOCRM_WEBHOOK_SECRETS lacks.
        secrets_file: where their secrets were written; empty where they were not.
        settings: of EspoCRM, that we advise.
    """

    model_config = ConfigDict(frozen=True)

    crm: str
    ingest: str
    webhooks: tuple[WebhookStand, ...]
    mends: tuple[WebhookMend, ...]
    secrets_wanted: tuple[str, ...]
    secrets_file: str
    settings: tuple[CrmSetting, ...]
    written: bool

    @property
    def faults(self) -> int:
        """How many of the nine are not as they should be."""
        return sum(bool(webhook.faults) for webhook in self.webhooks)


class Office:
    """One EspoCRM and its webhooks, as a command finds them.

    Args:
        settings: of EspoCRM.
        secrets: what ingest has, by webhook id.
        base_url: where EspoCRM reaches ingest; None where nobody said.
        records: EspoCRM's webhook records.
    """

    def __init__(
        self,
        settings: EspoSettings,
        secrets: Mapping[str, tuple[SecretStr, ...]],
        base_url: str | None,
        records: EspoWebhooks,
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._base_url = base_url
        self._records = records

    @property
    def address(self) -> str | None:
        """Where EspoCRM reaches ingest; None where nobody said."""
        return self._base_url

    async def planned(self) -> WebhookPlan:
        """Return what is to be done; nothing is changed.

        Raises:
            OutsideError: EspoCRM cannot be asked.
            CommandError: it does not show us its webhooks.
        """
        found, wanted = await self._look()
        mends = () if wanted.base_url is None else mending(found, wanted)
        return self._told(found, wanted, tuple(_shown(mend) for mend in mends))

    async def applied(self, secrets_file: Path | None = None) -> WebhookPlan:
        """Do what is to be done, write the secrets' file where one is named; may be repeated.

        Raises:
            OutsideError: EspoCRM cannot be asked.
            CommandError: it refuses, or the file is there already or cannot be written. What was
                done stays done, and is found the next time.
        """
        if secrets_file is not None:
            _refuse_existing(secrets_file)
        found, wanted = await self._look()
        done = [await self._carried_out(mend) for mend in mending(found, wanted)]
        found, wanted = await self._look()
        if secrets_file is not None:
            await self._write_secrets(secrets_file, found)
        return self._told(
            found, wanted, tuple(done), written=True, secrets_file=str(secrets_file or "")
        )

    # -- reading

    async def _look(self) -> tuple[tuple[Registration, ...], Wanted]:
        try:
            found = await self._records.registrations()
            theirs = await self._records.secrets()
        except Invalid as refused:
            raise _refused(refused, self._base_url) from None
        known = {
            one
            for one, secret in theirs.items()
            if secret.get_secret_value()
            in {ours.get_secret_value() for ours in self._secrets.get(one, ())}
        }
        user = await self._records.user_id()
        return found, Wanted(self._base_url, user, known if self._secrets else None)

    def _told(
        self,
        found: tuple[Registration, ...],
        wanted: Wanted,
        mends: tuple[WebhookMend, ...],
        *,
        written: bool = False,
        secrets_file: str = "",
    ) -> WebhookPlan:
        faults = findings(found, wanted)
        stands: list[WebhookStand] = []
        for webhook in WEBHOOKS:
            best = chosen(webhook, found, wanted)
            stands.append(
                WebhookStand(
                    event=webhook.event,
                    route=webhook.route,
                    id="" if best is None else best.id,
                    url="" if best is None else shown_url(best.url),
                    active=best is not None and best.active,
                    believed=_believed(best, wanted),
                    faults=tuple(fault.words for fault in faults if fault.webhook == webhook),
                )
            )
        return WebhookPlan(
            crm=self._settings.base_url,
            ingest=self._base_url or "",
            webhooks=tuple(stands),
            mends=mends,
            secrets_wanted=tuple(one.id for one in stands if one.id and one.believed != "yes"),
            secrets_file=secrets_file,
            settings=advised(self._base_url),
            written=written,
        )

    # -- writing

    async def _carried_out(self, mend: Mend) -> WebhookMend:
        try:
            match mend:
                case Create(webhook, url):
                    made = await self._records.create(webhook.event, url)
                    return _shown(mend).model_copy(update={"id": made.id})
                case Change():
                    await self._records.change(mend)
                case Deactivate(_, old):
                    await self._records.deactivate(old.id)
                case Leave():
                    pass
        except Invalid as refused:
            raise _refused(refused, self._base_url) from None
        return _shown(mend)

    async def _write_secrets(self, path: Path, found: tuple[Registration, ...]) -> None:
        """Write the secrets of all that may post to us now, for this account's eyes only."""
        theirs = await self._records.secrets()
        routes = tuple(webhook.route for webhook in WEBHOOKS)
        ids = {one.id for one in found if one.active and urlsplit(one.url).path.endswith(routes)}
        entries = [f"{one}={theirs[one].get_secret_value()}" for one in sorted(ids & set(theirs))]
        try:
            place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_FILE_MODE)
            with os.fdopen(place, "w", encoding="utf-8") as file:
                file.write(",".join(entries) + "\n")
        except FileExistsError:
            raise _there(path) from None
        except OSError as unfit:
            raise CommandError(
                Exit.REFUSED, f"{path}: {unfit.strerror}; --secrets-file names a new file"
            ) from None


@asynccontextmanager
async def open_office(env: Environment, url: str | None) -> AsyncIterator[Office]:
    """Open EspoCRM's webhooks.

    Args:
        env: says how to reach EspoCRM, and which secrets ingest has.
        url: where EspoCRM reaches ingest; else as the environment says.

    Raises:
        SettingsError: the environment does not fit.
        CommandError: EspoCRM does not answer.
    """
    settings = EspoSettings.from_env(env.values)
    secrets = WebhookSettings.from_env(env.values).secrets
    clock = SystemClock()
    async with aiohttp_transport(clock=clock) as transport:
        client = EspoCRM(
            transport,
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value(),
            clock=clock,
            timeout_seconds=settings.timeout_seconds,
        )
        base_url = url or settings.webhook_base_url
        try:
            yield Office(settings, secrets, base_url, EspoWebhooks(client))
        except Transient as away:
            if away.status is not None or away.ambiguous:
                raise
            raise CommandError(
                Exit.UNREACHABLE,
                f"EspoCRM does not answer at {settings.base_url} (from {env.source}): start it, or "
                "correct ESPOCRM_API_BASE_URL; `bbl doctor` tells more",
            ) from None


def advised(base_url: str | None) -> tuple[CrmSetting, ...]:
    """Return the settings of EspoCRM that we advise."""
    address = "host:port of ingest"
    if base_url is not None:
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = f"{parts.hostname}:{port}"
    return (
        CrmSetting(
            name="webhookAllowedAddressList",
            value=f"['{address}']",
            why="needed where ingest has a private address: EspoCRM posts to no other of these, and "
            "what it refuses itself is lost at once",
        ),
        CrmSetting(
            name="webhookQueueEventPortionSize",
            value="200",
            why="its 20 let through 600 changes an hour of the whole CRM",
        ),
        CrmSetting(
            name="webhookMaxAttemptNumber",
            value="12",
            why="its 4 give a post up after 30 minutes; with 12 it outlasts an outage of ours of "
            "nearly two hours",
        ),
    )


def _believed(best: Registration | None, wanted: Wanted) -> Literal["yes", "no", "unset"]:
    if wanted.secrets is None:
        return "unset"
    return "yes" if best is not None and best.id in wanted.secrets else "no"


def _shown(mend: Mend) -> WebhookMend:
    event = mend.webhook.event
    match mend:
        case Create(_, url):
            what = f"register it, active and with skipOwn, posting to {shown_url(url)}"
            return WebhookMend(kind="create", event=event, id="", what=what)
        case Change(_, old, url, activate, skip_own):
            parts = [
                f"let it post to {shown_url(url)} instead of {shown_url(old.url)}" if url else "",
                "switch it on" if activate else "",
                "switch skipOwn on" if skip_own else "",
            ]
            what = ", ".join(part for part in parts if part)
            return WebhookMend(kind="change", event=event, id=old.id, what=what)
        case Deactivate(_, old):
            what = "switch it off: another one has taken its place"
            return WebhookMend(kind="deactivate", event=event, id=old.id, what=what)
        case Leave(_, old, why):
            return WebhookMend(kind="leave", event=event, id=old.id, what=why)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise _there(path)


def _there(path: Path) -> CommandError:
    return CommandError(
        Exit.REFUSED, f"{path} is there already: name a file that is not, it takes secrets"
    )


def _refused(error: Invalid, base_url: str | None) -> CommandError:
    address = advised(base_url)[0].value
    return CommandError(
        Exit.REFUSED,
        f'{error}: let the role of our API user allow "Webhooks", and webhookAllowedAddressList '
        f"hold {address} where that is a private address",
    )
