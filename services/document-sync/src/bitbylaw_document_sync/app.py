"""document-sync: EspoCRM's documents into xAI's collections."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from bitbylaw_common import metrics, tracing
from bitbylaw_common.circuits import Circuits
from bitbylaw_common.clients import espocrm as espocrm_client
from bitbylaw_common.clients.espocrm import EspoCRM
from bitbylaw_common.clients.espocrm_webhooks import EspoWebhooks
from bitbylaw_common.clock import Clock, SystemClock
from bitbylaw_common.http.aiohttp_transport import aiohttp_transport
from bitbylaw_common.http.guarded import GuardedTransport
from bitbylaw_common.http.transport import Transport
from bitbylaw_common.limits import Limits, shared_limits
from bitbylaw_common.registrations import Wanted
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.run import run
from bitbylaw_common.sync.brake import Brake
from bitbylaw_common.sync.digests import Digester
from bitbylaw_document_sync import xai as xai_client
from bitbylaw_document_sync.adapters import (
    EspoDocuments,
    Names,
    XaiCollections,
    XaiFiles,
    XaiHoldings,
)
from bitbylaw_document_sync.deps import Deps, KnowledgeDeps, Lists
from bitbylaw_document_sync.domain.knowledge import KnowledgePolicy
from bitbylaw_document_sync.domain.planner import Policy
from bitbylaw_document_sync.executor import SERVICE
from bitbylaw_document_sync.knowledge_adapters import EspoKnowledge, XaiShelves
from bitbylaw_document_sync.messages import EspoMessages
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_document_sync.steps import (
    document_comparison_cron_step,
    document_coverage_cron_step,
    document_sync_event_step,
    knowledge_cron_step,
    knowledge_sync_event_step,
    webhook_check_cron_step,
)
from bitbylaw_document_sync.xai import Xai


def deps_over(
    transport: Transport,
    settings: DocumentSyncSettings,
    clock: Clock,
    limits: Limits | None = None,
) -> Deps:
    """Return the deps over any transport: the real one, or a test's.

    Their circuits hold calls back; they are the caller's to close.
    """
    circuits = Circuits(clock, limits)
    guarded = GuardedTransport(transport, circuits=circuits, clock=clock, limits=limits)
    espocrm = EspoCRM(
        guarded,
        base_url=settings.espocrm.base_url,
        api_key=settings.espocrm.api_key.get_secret_value(),
        clock=clock,
        timeout_seconds=settings.espocrm.timeout_seconds,
        metadata_ttl_seconds=settings.espocrm.metadata_ttl_seconds,
    )
    xai = Xai(
        guarded,
        files_url=settings.xai.files_url,
        management_url=settings.xai.management_url,
        api_key=settings.xai.api_key.get_secret_value(),
        management_key=settings.xai.management_key.get_secret_value(),
        clock=clock,
        upload_timeout_seconds=settings.xai.upload_timeout_seconds,
        timeout_seconds=settings.xai.timeout_seconds,
    )
    circuits.declare(espocrm_client.SYSTEM, espocrm.app_user)
    circuits.declare(xai_client.SYSTEM, xai.check_keys)
    names = Names(settings.file_link, settings.status_field, settings.collection_links)
    policy = Policy(
        Digester(settings.digests.digest_key.get_secret_value().encode()),
        timedelta(seconds=settings.settle_seconds),
        delete_files=settings.file_policy == "delete",
        notify=settings.espocrm.notify_user_id,
        indexing=timedelta(seconds=settings.indexing_seconds),
    )
    return Deps(
        EspoDocuments(espocrm, names),
        XaiFiles(xai),
        XaiCollections(xai),
        policy,
        circuits,
        Lists(
            EspoDocuments(espocrm, names),
            XaiHoldings(xai),
            settings.orphan_policy,
            timedelta(seconds=settings.orphan_settle_seconds),
        ),
        Brake(SERVICE, settings.budgets(), clock),
        messages=EspoMessages(espocrm),
        webhooks=EspoWebhooks(espocrm),
        wanted_webhooks=Wanted(settings.espocrm.webhook_base_url),
        knowledge=KnowledgeDeps(
            EspoKnowledge(espocrm, EspoDocuments(espocrm, names)),
            XaiShelves(xai),
            KnowledgePolicy(policy.digester.key_id, policy.settle, policy.notify),
            enabled=settings.knowledge_bases,
        ),
    )


@asynccontextmanager
async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Deps]:
    """Open what the steps need; connections are closed at the end of the block.

    Raises:
        SettingsError: the environment does not fit.
    """
    settings, clock = DocumentSyncSettings.from_env(env), SystemClock()
    rates = {
        espocrm_client.SYSTEM: settings.espocrm.rate_per_second,
        xai_client.SYSTEM: settings.xai.rate_per_second,
    }
    async with (
        aiohttp_transport(
            clock=clock, on_exchange=metrics.outside_request, traceparent=tracing.outgoing
        ) as transport,
        shared_limits(settings.redis, clock, rates) as limits,
    ):
        deps = deps_over(transport, settings, clock, limits)
        try:
            yield deps
        finally:
            await deps.circuits.close()


app = App(
    "document-sync",
    [
        document_sync_event_step.document_sync,
        document_coverage_cron_step.document_coverage,
        document_comparison_cron_step.document_comparison,
        knowledge_sync_event_step.knowledge_sync,
        knowledge_cron_step.knowledge_cron,
        knowledge_cron_step.knowledge_full_cron,
        webhook_check_cron_step.webhook_check,
    ],
    open_deps,
)


def main() -> None:
    """Run the service until it is told to stop."""
    run(app)
