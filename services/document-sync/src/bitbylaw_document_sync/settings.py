"""The environment that document-sync reads."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from bitbylaw_common.settings import (
    DigestSettings,
    EnvModel,
    EspoSettings,
    RedisSettings,
    Seconds,
    XaiSettings,
)
from bitbylaw_common.sync import brake
from bitbylaw_common.sync.brake import Budget

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class CollectionLink:
    """A link from a document to something that stands for a collection.

    Attributes:
        link: the link's name on the document.
        collection: the attribute of the linked record that holds xAI's collection id.
        activation: its attribute that says "active" where the collection counts; empty: always.
    """

    link: str
    collection: str
    activation: str = ""


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be a field name as EspoCRM's entity manager shows it")
    return text


def _links(value: object) -> object:
    if not isinstance(value, str):
        return value
    links = []
    for number, entry in enumerate(value.split(","), start=1):
        parts = [part.strip() for part in entry.split(":")]
        if len(parts) not in (2, 3) or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError(
                f"entry {number} must be link:field of the collection id, "
                "and :field of its activation where there is one"
            )
        links.append(CollectionLink(*parts))
    return tuple(links)


FieldName = Annotated[str, AfterValidator(_name)]


def _budget(value: object) -> object:
    return Budget.of(value) if isinstance(value, str) else value


LongSeconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600, allow_inf_nan=False)]
"""Of what takes hours or days."""

Allowed = Annotated[Budget, BeforeValidator(_budget)]
Links = Annotated[tuple[CollectionLink, ...], BeforeValidator(_links)]


class DocumentSyncSettings(EnvModel):
    """All that document-sync reads beside what every service does."""

    espocrm: EspoSettings
    xai: XaiSettings
    redis: RedisSettings
    digests: DigestSettings
    settle_seconds: Seconds = Field(180, validation_alias="XAI_SETTLE_SECONDS")
    file_policy: Literal["keep", "delete"] = Field("keep", validation_alias="XAI_FILE_POLICY")
    indexing_seconds: LongSeconds = Field(21_600, validation_alias="XAI_INDEXING_SECONDS")
    orphan_policy: Literal["list", "detach", "delete"] = Field(
        "list", validation_alias="XAI_ORPHAN_POLICY"
    )
    orphan_settle_seconds: LongSeconds = Field(72_000, validation_alias="XAI_ORPHAN_SETTLE_SECONDS")
    collection_links: Links = Field(
        (CollectionLink("cAIKnowledges", "datenbankId", "aktivierungsstatus"),),
        validation_alias="DOCUMENT_COLLECTION_LINKS",
    )
    brake_uploads: Allowed = Field(Budget(4, 1000), validation_alias="DOCUMENT_BRAKE_UPLOADS")
    brake_deletes: Allowed = Field(Budget(10, 50), validation_alias="DOCUMENT_BRAKE_DELETES")
    brake_detaches: Allowed = Field(Budget(100, 500), validation_alias="DOCUMENT_BRAKE_DETACHES")
    brake_overwrites: Allowed = Field(Budget(8, 2000), validation_alias="DOCUMENT_BRAKE_OVERWRITES")
    brake_records: Allowed = Field(Budget(1, 1000, 0.25), validation_alias="DOCUMENT_BRAKE_RECORDS")
    file_link: FieldName = Field("dokument", validation_alias="DOCUMENT_FILE_LINK")
    status_field: FieldName = Field("fileStatus", validation_alias="DOCUMENT_STATUS_FIELD")
    knowledge_bases: bool = Field(False, validation_alias="DOCUMENT_KNOWLEDGE_BASES")

    def budgets(self) -> dict[str, Budget]:
        """Return how much of each kind may happen before the brake trips."""
        return {
            brake.UPLOAD: self.brake_uploads,
            brake.DELETE: self.brake_deletes,
            brake.DETACH: self.brake_detaches,
            brake.OVERWRITE: self.brake_overwrites,
            brake.RECORD: self.brake_records,
        }
