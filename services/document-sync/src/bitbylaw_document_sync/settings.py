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
Links = Annotated[tuple[CollectionLink, ...], BeforeValidator(_links)]


class DocumentSyncSettings(EnvModel):
    """All that document-sync reads beside what every service does."""

    espocrm: EspoSettings
    xai: XaiSettings
    redis: RedisSettings
    digests: DigestSettings
    settle_seconds: Seconds = Field(180, validation_alias="XAI_SETTLE_SECONDS")
    file_policy: Literal["keep", "delete"] = Field("keep", validation_alias="XAI_FILE_POLICY")
    collection_links: Links = Field(
        (CollectionLink("cAIKnowledges", "datenbankId", "aktivierungsstatus"),),
        validation_alias="DOCUMENT_COLLECTION_LINKS",
    )
    file_link: FieldName = Field("dokument", validation_alias="DOCUMENT_FILE_LINK")
    status_field: FieldName = Field("fileStatus", validation_alias="DOCUMENT_STATUS_FIELD")
