"""Looks once a day whether EspoCRM still has all webhooks: one click there removes them silently.

It runs here and not in ingest, which faces the outside and therefore holds no key to the CRM and
belongs to no consumer group. That a webhook is registered says nothing of whether posts arrive: a
source that fell silent is found by the coverage of the records that changed meanwhile.
"""

from bitbylaw_common import metrics
from bitbylaw_common.errors import Invalid
from bitbylaw_common.outcomes import Outcome, Rejected, Skipped
from bitbylaw_common.registrations import GRAVE, Fault, findings
from bitbylaw_common.runtime.context import Context
from bitbylaw_common.runtime.step import step
from bitbylaw_common.runtime.triggers import Tick, cron
from bitbylaw_common.webhooks import WEBHOOKS
from bitbylaw_document_sync.deps import Deps

RULE = "webhooks registered"


@step(
    name="Webhook Registration Check",
    description="Looks whether EspoCRM has all our webhooks, active and posting to us",
    flows=["vmh"],
    triggers=[cron("0 30 6 * * *")],
    needs=["espocrm"],
)
async def webhook_check(_tick: Tick, ctx: Context[Deps]) -> Outcome:
    """Compare, count and say; nothing is changed, that is `bbl espocrm webhooks apply`."""
    try:
        found = await ctx.deps.webhooks.registrations()
    except Invalid as refused:
        if refused.status != 403:
            raise
        reason = 'EspoCRM does not show us its webhooks: let our API user\'s role allow "Webhooks"'
        ctx.decided(RULE, reason)
        return Rejected(reason, error="Invalid")
    faults = findings(found, ctx.deps.wanted_webhooks)
    _count({(f.webhook.entity, f.webhook.action, f.fault) for f in faults})
    if not faults:
        ctx.decided(RULE, f"all {len(WEBHOOKS)} are registered, active and post to us")
        return Skipped(f"all {len(WEBHOOKS)} webhooks are registered")
    reason = "; ".join(str(finding) for finding in faults)
    ctx.decided(RULE, reason)
    for finding in faults:
        log = ctx.logger.error if finding.fault in GRAVE else ctx.logger.warning
        log(
            "a webhook of EspoCRM is not registered as it should be",
            webhook=finding.webhook.event,
            fault=finding.fault.value,
            remedy="bbl espocrm webhooks plan",
        )
    return Skipped(f"{reason}; `bbl espocrm webhooks plan` says more")


def _count(faults: set[tuple[str, str, Fault]]) -> None:
    for webhook in WEBHOOKS:
        for fault in Fault:
            labels = (webhook.entity, webhook.action, fault.value)
            there = (webhook.entity, webhook.action, fault) in faults
            metrics.WEBHOOK_REGISTRATION_FAULTS.labels(*labels).set(there)
