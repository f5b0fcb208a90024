"""What EspoCRM has registered as webhooks beside what it should have, and how to mend it (pure).

EspoCRM's rules behind the choices: an API user sees and edits only the webhooks that are its own;
`event` is fixed at creation, everything else can be changed; `skipOwn` holds for a webhook with a
user only; the secret comes with the record and stays as long as it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from bitbylaw_common.webhooks import WEBHOOKS, Webhook


@dataclass(frozen=True, slots=True)
class Registration:
    """One webhook as EspoCRM has it; its secret is no part of it.

    Attributes:
        event: "CDokumente.update".
        active: EspoCRM posts; of an inactive one what waited is thrown away.
        skip_own: what its user changed is not told.
        user_id: the API user it belongs to; None: an administrator made it for nobody.
    """

    id: str
    event: str
    url: str
    active: bool
    skip_own: bool
    user_id: str | None


class Fault(StrEnum):
    """What may be wrong with the registration of one webhook; a metric's label, so never renamed.

    While one of the first four holds, changes of the CRM are not told to us.
    """

    MISSING = "missing"
    INACTIVE = "inactive"
    ELSEWHERE = "elsewhere"
    UNBELIEVED = "unbelieved"
    DUPLICATE = "duplicate"
    OTHER_USER = "other_user"
    ECHOES = "echoes"


GRAVE = (Fault.MISSING, Fault.INACTIVE, Fault.ELSEWHERE, Fault.UNBELIEVED)
"""The faults by which changes are lost until the comparison finds them."""

_IN_WORDS = {
    Fault.MISSING: "is not registered, so EspoCRM tells nothing of it",
    Fault.INACTIVE: "is switched off, so EspoCRM tells nothing of it",
    Fault.ELSEWHERE: "posts to another address",
    Fault.UNBELIEVED: "is signed with a secret that ESPOCRM_WEBHOOK_SECRETS does not have, so "
    "ingest refuses it",
    Fault.DUPLICATE: "is registered more than once, so every change comes as often",
    Fault.OTHER_USER: "belongs to another user than our API user",
    Fault.ECHOES: "has skipOwn switched off, so our own write-backs are told to us",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one webhook.

    Attributes:
        registration: the record it is about; None where there is none.
    """

    webhook: Webhook
    fault: Fault
    registration: Registration | None = None

    @property
    def words(self) -> str:
        """What is wrong, to be read after the webhook's name."""
        if self.fault is Fault.DUPLICATE and self.registration is not None:
            return f"{_IN_WORDS[self.fault]} ({self.registration.id})"
        return _IN_WORDS[self.fault]

    def __str__(self) -> str:
        at = f" ({self.registration.id})" if self.registration is not None else ""
        return f"{self.webhook.event}{at} {_IN_WORDS[self.fault]}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the nine are to be registered.

    Attributes:
        base_url: where EspoCRM reaches ingest, without a last slash; None: any address will do.
        user_id: our API user; None: any user will do.
        secrets: ids of the webhooks whose secret ingest has; None: it asks for none.
    """

    base_url: str | None = None
    user_id: str | None = None
    secrets: Collection[str] | None = None

    def url(self, webhook: Webhook) -> str:
        """Return where a webhook is to post; empty where nobody said."""
        return "" if self.base_url is None else f"{self.base_url}{webhook.route}"


@dataclass(frozen=True, slots=True)
class Create:
    """Register what is missing; EspoCRM makes id and secret."""

    webhook: Webhook
    url: str


@dataclass(frozen=True, slots=True)
class Change:
    """Give a registration another address, or switch it on; its id and secret stay.

    Attributes:
        url: the new one; None leaves it.
        activate: switch it on.
        skip_own: let it leave out what we ourselves change.
    """

    webhook: Webhook
    registration: Registration
    url: str | None = None
    activate: bool = False
    skip_own: bool = False


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Switch a registration off that another one has taken the place of."""

    webhook: Webhook
    registration: Registration


@dataclass(frozen=True, slots=True)
class Leave:
    """One that we may not, or not yet, switch off ourselves; `why` says when, and who does."""

    webhook: Webhook
    registration: Registration
    why: str


Mend = Create | Change | Deactivate | Leave

_OF_OTHERS = "it is another user's: an administrator of EspoCRM switches it off"


def findings(found: Sequence[Registration], wanted: Wanted) -> tuple[Finding, ...]:
    """Return everything that is wrong, in the order of the nine; nothing where all is well.

    What others registered for the same events, to addresses that have nothing of ours, is theirs.
    """
    return tuple(
        finding for webhook in WEBHOOKS for finding in _findings_of(webhook, found, wanted)
    )


def mending(found: Sequence[Registration], wanted: Wanted) -> tuple[Mend, ...]:
    """Return what brings the registrations in line; carried out, it leaves nothing but `Leave`.

    One that is to go is switched off only once ingest knows the secret of the one that stays: in
    between a change comes twice, which does no harm.

    Raises:
        ValueError: `wanted` does not say the address.
    """
    if wanted.base_url is None:
        raise ValueError("nobody said where EspoCRM reaches ingest")
    return tuple(mend for webhook in WEBHOOKS for mend in _mending_of(webhook, found, wanted))


def chosen(webhook: Webhook, found: Sequence[Registration], wanted: Wanted) -> Registration | None:
    """Return the registration that counts as ours for this webhook: the best of several."""
    ours = _ours(webhook, found, wanted)
    return min(ours, key=lambda one: _rank(one, webhook, wanted), default=None)


def shown_url(url: str) -> str:
    """Return an address without what may be a key in it: its query, user and password."""
    parts = urlsplit(url)
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


# -- one webhook ----------------------------------------------------------------------------------


def _findings_of(
    webhook: Webhook, found: Sequence[Registration], wanted: Wanted
) -> Iterator[Finding]:
    best = chosen(webhook, found, wanted)
    if best is None:
        yield Finding(webhook, Fault.MISSING)
        return
    if not _right_place(best, webhook, wanted):
        yield Finding(webhook, Fault.ELSEWHERE, best)
    if not best.active:
        yield Finding(webhook, Fault.INACTIVE, best)
    if _is_foreign(best, wanted):
        yield Finding(webhook, Fault.OTHER_USER, best)
    elif not best.skip_own:
        yield Finding(webhook, Fault.ECHOES, best)
    if not _signed_for(best, wanted):
        yield Finding(webhook, Fault.UNBELIEVED, best)
    for more in _rest(webhook, found, wanted, best):
        yield Finding(webhook, Fault.DUPLICATE, more)


def _mending_of(webhook: Webhook, found: Sequence[Registration], wanted: Wanted) -> Iterator[Mend]:
    url = wanted.url(webhook)
    best = chosen(webhook, found, wanted)
    if best is None or _is_foreign(best, wanted):
        yield Create(webhook, url)
        if best is not None:
            yield Leave(webhook, best, _OF_OTHERS)
        return
    change = _change(webhook, best, url)
    if change is not None:
        yield change
    for old in _rest(webhook, found, wanted, best):
        if _is_foreign(old, wanted):
            yield Leave(webhook, old, _OF_OTHERS)
        elif not _signed_for(best, wanted):
            yield Leave(webhook, old, f"it is switched off once ingest has the secret of {best.id}")
        else:
            yield Deactivate(webhook, old)


def _change(webhook: Webhook, best: Registration, url: str) -> Change | None:
    change = Change(
        webhook,
        best,
        url=None if best.url == url else url,
        activate=not best.active,
        skip_own=not best.skip_own,
    )
    return change if change.url or change.activate or change.skip_own else None


def _rest(
    webhook: Webhook, found: Sequence[Registration], wanted: Wanted, best: Registration
) -> list[Registration]:
    """Return the active registrations beside the best: each of them tells every change again."""
    return [one for one in _ours(webhook, found, wanted) if one.active and one.id != best.id]


def _ours(webhook: Webhook, found: Sequence[Registration], wanted: Wanted) -> list[Registration]:
    """Return the registrations of the event that lead to a route of ours, here or elsewhere."""
    routes = tuple(known.route for known in WEBHOOKS)
    url = wanted.url(webhook)
    return [
        one
        for one in found
        if one.event == webhook.event
        and (one.url == url or urlsplit(one.url).path.rstrip("/").endswith(routes))
    ]


def _rank(one: Registration, webhook: Webhook, wanted: Wanted) -> tuple[bool | str, ...]:
    """Order registrations, the best first; the id decides between equals, the older comes first."""
    return (
        _is_foreign(one, wanted),
        not _right_place(one, webhook, wanted),
        not one.active,
        not _signed_for(one, wanted),
        one.id,
    )


def _right_place(one: Registration, webhook: Webhook, wanted: Wanted) -> bool:
    if wanted.base_url is None:
        return urlsplit(one.url).path.rstrip("/").endswith(webhook.route)
    return one.url == wanted.url(webhook)


def _is_foreign(one: Registration, wanted: Wanted) -> bool:
    return wanted.user_id is not None and one.user_id != wanted.user_id


def _signed_for(one: Registration, wanted: Wanted) -> bool:
    return wanted.secrets is None or one.id in wanted.secrets
