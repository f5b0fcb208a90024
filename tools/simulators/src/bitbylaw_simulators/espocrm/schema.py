"""The entity types of the firm's CRM as far as they matter here (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bitbylaw_simulators.espocrm.quirks import EspoQuirks

FieldType = Literal[
    "varchar", "text", "int", "float", "bool", "enum", "date", "datetime", "url",
    "array", "multiEnum", "jsonObject", "link", "linkParent", "file", "image", "email", "phone",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One field; it may stand for several attributes.

    Attributes:
        type: of EspoCRM.
        required: may not be empty.
        read_only: ignored on input.
        options: of an enum.
        default: at creation.
        max_length: of a text.
        entity: what a link points to.
    """

    type: FieldType
    required: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    default: Any = None
    max_length: int | None = None
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One link that is a list.

    Attributes:
        type: as EspoCRM names it.
        entity: the other side.
        relation: the junction of a many-to-many link.
        near: the junction's attribute with our id.
        far: the attribute with theirs: in the junction, or in the other entity for hasMany.
        foreign: how the other entity calls the same link; empty where metadata does not say.
        hooked: linking marks the junction row and the parent.
    """

    type: Literal["manyMany", "hasMany", "hasChildren"]
    entity: str
    relation: str | None = None
    near: str = ""
    far: str = ""
    hooked: bool = False
    foreign: str = ""


@dataclass(frozen=True, slots=True)
class EntityDef:
    """One entity type.

    Attributes:
        fields: by name.
        links: by name, lists only.
        duplicate_fields: a record equal in one of them is a duplicate.
        object: may have webhooks.
        junction: is the table of a many-to-many link.
    """

    fields: Mapping[str, Field]
    links: Mapping[str, Link] = field(default_factory=dict)
    duplicate_fields: tuple[str, ...] = ()
    object: bool = True
    junction: bool = False


def attributes(name: str, spec: Field) -> tuple[str, ...]:
    """Return the attributes that a field stands for."""
    match spec.type:
        case "link" | "file" | "image":
            return (f"{name}Id", f"{name}Name")
        case "linkParent":
            return (f"{name}Id", f"{name}Type", f"{name}Name")
        case "email" | "phone":
            return (name, f"{name}Data")
        case _:
            return (name,)


def read_only_attributes(definition: EntityDef) -> frozenset[str]:
    """Return what input is ignored for."""
    return frozenset(
        attribute
        for name, spec in definition.fields.items()
        if spec.read_only
        for attribute in attributes(name, spec)
    )


_VARCHAR = Field("varchar", max_length=255)
_TEXT = Field("text")
_NAME = Field("varchar", required=True, max_length=255)
_DATETIME = Field("datetime")
_STAMPS: dict[str, Field] = {
    "createdAt": Field("datetime", read_only=True),
    "modifiedAt": Field("datetime", read_only=True),
    "createdBy": Field("link", read_only=True, entity="User"),
    "modifiedBy": Field("link", read_only=True, entity="User"),
}
_PARTY_STATES = (
    "pending_sync", "dirty", "syncing", "clean", "failed",
    "permanently_failed", "conflict", "deleted_in_advoware",
)  # fmt: skip
_XAI_STATES = ("clean", "unclean", "pending_sync", "failed", "no_sync", "unsupported")
_BOOKKEEPING: dict[str, Field] = {
    "syncErrorMessage": Field("text", max_length=2000),
    "syncRetryCount": Field("int", default=0),
    "syncNextRetry": _DATETIME,
    "syncAutoResetAt": _DATETIME,
    "advowareLastSync": _DATETIME,
}


def schema(quirks: EspoQuirks) -> dict[str, EntityDef]:
    """Return the entity types, as the quirks name their fields."""
    return {
        "CDokumente": _documents(quirks),
        "CAIKnowledge": _knowledge(quirks),
        "CAIKnowledgeCDokumente": _knowledge_junction(),
        "CAdvowareAkten": _cases(),
        "CAdvowareAktenCDokumente": _case_junction(),
        "CBeteiligte": _parties(),
        "CBankverbindungen": _accounts(),
        **_system(),
    }


def status_options(quirks: EspoQuirks) -> tuple[str, tuple[str, ...]]:
    """Return the status field of documents and its options: new, changed, then the others."""
    match quirks.generation:
        case "seed":
            return "fileStatus", ("neu", "geändert", "synced", "unchanged", "failed", "unsupported")
        case "march":
            return "dateiStatus", ("Neu", "Geändert", "Synced", "Unverändert")
        case _:
            return "fileStatus", ("new", "changed", "unchanged", "synced", "failed", "unsupported")


def metadata(definitions: Mapping[str, EntityDef], quirks: EspoQuirks) -> dict[str, Any]:
    """Return what `GET /Metadata` shows."""
    return {
        "entityDefs": {
            entity: {
                "fields": {
                    name: {
                        "type": spec.type,
                        "required": spec.required,
                        "readOnly": spec.read_only,
                        **({"options": list(spec.options)} if spec.options else {}),
                        **({"maxLength": spec.max_length} if spec.max_length else {}),
                        **({"entity": spec.entity} if spec.entity else {}),
                    }
                    for name, spec in definition.fields.items()
                },
                "links": {
                    name: {
                        "type": "hasMany" if link.type == "manyMany" else link.type,
                        "entity": link.entity,
                        **({"relationName": link.relation} if link.relation else {}),
                        **({"foreign": link.foreign} if link.foreign else {}),
                    }
                    for name, link in definition.links.items()
                },
                "optimisticConcurrencyControl": entity in quirks.optimistic_locking,
            }
            for entity, definition in definitions.items()
            if not definition.junction or quirks.junction_api
        },
        "scopes": {
            entity: {"entity": True, "object": definition.object, "isCustom": entity[0] == "C"}
            for entity, definition in definitions.items()
            if not definition.junction or quirks.junction_api
        },
        "app": {"version": quirks.version},
    }


def _documents(quirks: EspoQuirks) -> EntityDef:
    status, options = status_options(quirks)
    fields = {
        "name": _NAME,
        quirks.file_field: Field("file", entity="Attachment"),
        "preview": Field("image", entity="Attachment"),
        status: Field("enum", options=options),
        "xaiSyncStatus": Field("enum", options=_XAI_STATES),
        "xaiId": _VARCHAR,
        "xaiCollections": Field("array"),
        "xaiSyncedHash": _VARCHAR,
        "syncErrorMessage": Field("text", max_length=2000),
        "md5sum": _VARCHAR,
        "sha256": _VARCHAR,
        **({quirks.blake3_field: _VARCHAR} if quirks.blake3_field else {}),
        "description": _TEXT,
        "assignedUser": Field("link", entity="User"),
        **_STAMPS,
    }
    knowledge = Link(
        "manyMany",
        "CAIKnowledge",
        "CAIKnowledgeCDokumente",
        "cDokumenteId",
        "cAIKnowledgeId",
        hooked=True,
        foreign="dokumentes",
    )
    cases = Link(
        "manyMany",
        "CAdvowareAkten",
        "CAdvowareAktenCDokumente",
        "cDokumenteId",
        "cAdvowareAktenId",
        hooked=True,
        foreign="dokumentes",
    )
    return EntityDef(fields, {quirks.knowledge_link: knowledge, "cAdvowareAktens": cases})


def _knowledge(quirks: EspoQuirks) -> EntityDef:
    fields = {
        "name": _NAME,
        "datenbankId": _VARCHAR,
        "aktivierungsstatus": Field(
            "enum", options=("new", "active", "paused", "deactivated"), default="new"
        ),
        "syncStatus": Field(
            "enum", options=("synced", "unclean", "pending_sync", "failed"), default="unclean"
        ),
        "lastSync": _DATETIME,
        "description": _TEXT,
        **_STAMPS,
    }
    documents = Link(
        "manyMany",
        "CDokumente",
        "CAIKnowledgeCDokumente",
        "cAIKnowledgeId",
        "cDokumenteId",
        hooked=True,
        foreign=quirks.knowledge_link,
    )
    return EntityDef(fields, {"dokumentes": documents})


def _knowledge_junction() -> EntityDef:
    fields = {
        "cAIKnowledgeId": _VARCHAR,
        "cDokumenteId": _VARCHAR,
        "aiDocumentId": _VARCHAR,
        "syncstatus": Field(
            "enum", options=("new", "unclean", "synced", "failed", "unsupported"), default="new"
        ),
        "lastSync": _DATETIME,
        "syncedHash": _VARCHAR,
    }
    return EntityDef(fields, object=False, junction=True)


def _cases() -> EntityDef:
    fields = {
        "name": _NAME,
        "aktenzeichen": _VARCHAR,
        "aktennummer": Field("int"),
        "aktenpfad": _VARCHAR,
        "aktivierungsstatus": Field(
            "enum", options=("new", "active", "paused", "deactivated"), default="active"
        ),
        "syncStatus": Field(
            "enum", options=("synced", "unclean", "pending_sync", "failed"), default="unclean"
        ),
        "lastSync": _DATETIME,
        "vmhRumungsklage": Field("link", entity="CVmhRumungsklage"),
        **_STAMPS,
    }
    documents = Link(
        "manyMany",
        "CDokumente",
        "CAdvowareAktenCDokumente",
        "cAdvowareAktenId",
        "cDokumenteId",
        hooked=True,
        foreign="cAdvowareAktens",
    )
    return EntityDef(fields, {"dokumentes": documents})


def _case_junction() -> EntityDef:
    fields = {
        "cAdvowareAktenId": _VARCHAR,
        "cDokumenteId": _VARCHAR,
        "hnr": _VARCHAR,
        "syncStatus": Field("enum", options=("new", "changed", "synced", "deleted"), default="new"),
        "syncedHash": Field("varchar", max_length=64),
    }
    return EntityDef(fields, object=False, junction=True)


def _parties() -> EntityDef:
    fields = {
        "name": Field("varchar", read_only=True),
        "betnr": Field("int"),
        "firstName": _VARCHAR,
        "lastName": _VARCHAR,
        "firmenname": _VARCHAR,
        "rechtsform": Field("enum"),
        "salutationName": Field("enum"),
        "titel": _VARCHAR,
        "zusatz": _VARCHAR,
        "dateOfBirth": Field("date"),
        "handelsregisterNummer": _VARCHAR,
        "registergericht": _VARCHAR,
        "emailAddress": Field("email"),
        "phoneNumber": Field("phone"),
        "advowareRowId": _VARCHAR,
        "kommunikationHash": _VARCHAR,
        "syncStatus": Field("enum", options=_PARTY_STATES),
        **_BOOKKEEPING,
        "description": _TEXT,
        **_STAMPS,
    }
    accounts = Link("hasMany", "CBankverbindungen", far="beteiligteId")
    tasks = Link("hasChildren", "Task", far="parentId")
    return EntityDef(fields, {"bankverbindungens": accounts, "tasks": tasks})


def _accounts() -> EntityDef:
    fields = {
        "name": _VARCHAR,
        "iban": Field("varchar", required=True, max_length=34),
        "bic": Field("varchar", max_length=11),
        "kontoinhaber": _VARCHAR,
        "bankname": _VARCHAR,
        "istAktiv": Field("bool", default=True),
        "istStandard": Field("bool", default=False),
        "beteiligte": Field("link", entity="CBeteiligte"),
        "advowareKontoId": _VARCHAR,
        "advowareLastSync": _DATETIME,
        "syncStatus": Field("enum", options=("clean", "unclean", "failed")),
        **_STAMPS,
    }
    return EntityDef(fields, duplicate_fields=("iban",))


def _system() -> dict[str, EntityDef]:
    webhook = {
        "event": Field("varchar", required=True, max_length=100),
        "url": Field("url", required=True, max_length=512),
        "isActive": Field("bool", default=True),
        "user": Field("link", entity="User"),
        "entityType": Field("varchar", read_only=True),
        "type": Field("varchar", read_only=True),
        "field": Field("varchar", read_only=True),
        "secretKey": Field("varchar", read_only=True),
        "skipOwn": Field("bool", default=False),
        "description": _TEXT,
        **_STAMPS,
    }
    attachment = {
        "name": _NAME,
        "type": _VARCHAR,
        "size": Field("int", read_only=True),
        "role": _VARCHAR,
        "field": _VARCHAR,
        "parent": Field("linkParent"),
        "related": Field("linkParent"),
        "isBeingUploaded": Field("bool", read_only=True, default=False),
        "createdAt": Field("datetime", read_only=True),
        "createdBy": Field("link", read_only=True, entity="User"),
    }
    notification = {
        "type": _VARCHAR,
        "message": _TEXT,
        "data": Field("jsonObject"),
        "read": Field("bool", default=False),
        "user": Field("link", entity="User"),
        "related": Field("linkParent", read_only=True),
        "createdAt": Field("datetime", read_only=True),
        "createdBy": Field("link", read_only=True, entity="User"),
    }
    task = {
        "name": _NAME,
        "status": Field(
            "enum",
            options=("Not Started", "Started", "Completed", "Canceled", "Deferred"),
            default="Not Started",
        ),
        "priority": Field("enum", options=("Low", "Normal", "High", "Urgent"), default="Normal"),
        "dateStart": _DATETIME,
        "dateEnd": _DATETIME,
        "description": _TEXT,
        "parent": Field("linkParent"),
        "assignedUser": Field("link", entity="User"),
        **_STAMPS,
    }
    user = {
        "name": _VARCHAR,
        "userName": Field("varchar", required=True, max_length=50),
        "type": Field("enum", options=("regular", "admin", "api", "system"), default="regular"),
        "isActive": Field("bool", default=True),
        "createdAt": Field("datetime", read_only=True),
    }
    return {
        "Webhook": EntityDef(webhook, object=False),
        "Attachment": EntityDef(attachment, object=False),
        "Notification": EntityDef(notification, object=False),
        "Task": EntityDef(task),
        "User": EntityDef(user),
    }
