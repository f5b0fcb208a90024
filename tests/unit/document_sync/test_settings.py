"""The settings of document-sync: the seed's names, and what is wrong with a wrong one."""

import pytest

from bitbylaw_common.errors import SettingsError
from bitbylaw_common.settings import differences
from bitbylaw_common.sync.brake import DELETE, DETACH, OVERWRITE, RECORD, UPLOAD, Budget
from bitbylaw_document_sync.settings import CollectionLink, DocumentSyncSettings

ENV = {
    "ESPOCRM_API_BASE_URL": "https://crm.example.org/api/v1",
    "ESPOCRM_API_KEY": "espo",
    "XAI_API_KEY": "xai-1",
    "XAI_MANAGEMENT_KEY": "xai-token-1",
    "BBL_DIGEST_KEY": "0123456789abcdef",
}


def test_every_name_is_in_the_catalogue_with_the_same_default() -> None:
    assert differences(DocumentSyncSettings) == ()


def test_the_defaults_are_the_seed_s() -> None:
    settings = DocumentSyncSettings.from_env(ENV)
    assert settings.file_policy == "keep"
    assert settings.settle_seconds == 180
    assert settings.collection_links == (
        CollectionLink("cAIKnowledges", "datenbankId", "aktivierungsstatus"),
    )


def test_several_links_with_and_without_an_activation_are_read() -> None:
    links = "cAIKnowledges:datenbankId:aktivierungsstatus, akten:xaiCollectionId"
    settings = DocumentSyncSettings.from_env({**ENV, "DOCUMENT_COLLECTION_LINKS": links})
    assert settings.collection_links[1] == CollectionLink("akten", "xaiCollectionId")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOCUMENT_COLLECTION_LINKS", "cAIKnowledges"),
        ("DOCUMENT_COLLECTION_LINKS", "a:b:c:d"),
        ("DOCUMENT_COLLECTION_LINKS", "a/b:c"),
        ("DOCUMENT_FILE_LINK", "doku ment"),
        ("DOCUMENT_STATUS_FIELD", "1"),
        ("XAI_FILE_POLICY", "maybe"),
        ("XAI_ORPHAN_POLICY", "remove"),
        ("XAI_ORPHAN_SETTLE_SECONDS", "soon"),
        ("XAI_SETTLE_SECONDS", "-1"),
        ("XAI_INDEXING_SECONDS", "0"),
        ("DOCUMENT_BRAKE_DELETES", "many"),
        ("DOCUMENT_BRAKE_RECORDS", "1/500/25"),
        ("XAI_RATE_PER_SECOND", "0"),
        ("ESPOCRM_RATE_PER_SECOND", "fast"),
        ("BBL_DIGEST_KEY", "short"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        DocumentSyncSettings.from_env({**ENV, name: value})


def test_budgets_are_read_for_every_kind_that_the_brake_knows() -> None:
    told = {"DOCUMENT_BRAKE_DELETES": "3/7", "DOCUMENT_BRAKE_RECORDS": "1/20/50%"}
    budgets = DocumentSyncSettings.from_env({**ENV, **told}).budgets()
    assert set(budgets) == {UPLOAD, DELETE, DETACH, OVERWRITE, RECORD}
    assert budgets[DELETE] == Budget(3, 7)
    assert budgets[RECORD] == Budget(1, 20, 0.5)
    assert budgets[UPLOAD] == Budget(4, 1000)


def test_rates_are_limited_only_where_they_are_set() -> None:
    settings = DocumentSyncSettings.from_env({**ENV, "XAI_RATE_PER_SECOND": "2.5"})
    assert (settings.xai.rate_per_second, settings.espocrm.rate_per_second) == (2.5, None)


def test_a_missing_name_is_named() -> None:
    with pytest.raises(SettingsError, match="BBL_DIGEST_KEY"):
        DocumentSyncSettings.from_env({k: v for k, v in ENV.items() if k != "BBL_DIGEST_KEY"})
