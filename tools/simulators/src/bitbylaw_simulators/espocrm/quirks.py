"""What is doubtful or changeable about EspoCRM, each a named switch."""

from dataclasses import dataclass
from typing import Literal

from bitbylaw_simulators.quirks import quirk


@dataclass(frozen=True, slots=True)
class EspoQuirks:
    """The switches; defaults are what is most likely."""

    version: Literal["9.3", "10.0"] = quirk(
        "9.3",
        "10.0 loses a batch whose connection was refused, 9.3 sends it again",
        "vendor source",
    )
    generation: Literal["seed", "march", "later"] = quirk(
        "seed",
        "status of documents: `fileStatus` neu/geändert (seed), `dateiStatus` Neu/Geändert (march), `fileStatus` new/changed (later)",
        "seed, original docs",
    )
    file_field: str = quirk("dokument", "the field of CDokumente that holds the file", "inferred")
    knowledge_link: str = quirk(
        "cAIKnowledges", "the link from CDokumente to the knowledge bases", "inferred"
    )
    blake3_field: str = quirk(
        "blake3hash", "the field with the BLAKE3 hash; empty: the CRM has none", "original docs"
    )
    hash_hook: bool = quirk(True, "a new file sets hashes and status by itself", "original docs")
    link_hooks: bool = quirk(
        True, "linking marks the junction row `new` and the parent `unclean`", "original docs"
    )
    sync_status_hook: bool = quirk(
        True, "people's saves set `syncStatus` of parties and bank accounts", "original docs"
    )
    link_multiple: bool = quirk(
        False, "CDokumente shows and takes the ids of its links as attributes", "inferred"
    )
    junction_api: bool = quirk(
        False, "junction rows are entities of their own in the API (11 March only)", "original docs"
    )
    optimistic_locking: tuple[str, ...] = quirk(
        (), "entity types with `versionNumber` and 409 `modified`", "vendor source"
    )
    duplicate_check: bool = quirk(
        True, "creating a bank account with a known IBAN answers 409 `duplicate`", "vendor source"
    )
    validate_enums: bool = quirk(
        False, "an enum value that is not among the options answers 400", "inferred"
    )
    silent_saves_touch_modified: bool = quirk(
        False, "silent saves change `modifiedAt` and `modifiedById`", "inferred"
    )
    uuid_ids: bool = quirk(False, "ids are UUIDs instead of 17 characters", "vendor source")
    list_limit: int = quirk(200, "rows on a page at most; more asked answers 403", "vendor source")
    attachment_limit_mib: int = quirk(256, "largest upload of a file in MiB", "vendor source")
    login_ban: bool = quirk(
        True, "more than 10 denied logins from one address in 60 s: 403 for all", "vendor source"
    )
    webhook_signatures: Literal["both", "signature", "x-signature", "none"] = quirk(
        "both", "which signature headers webhooks carry", "vendor source"
    )
    skip_own: bool = quirk(
        True, "`skipOwn` is known (since 9.2); off: every event is sent", "vendor source"
    )
    webhook_event_portion: int = quirk(20, "events expanded in one pass", "vendor source")
    webhook_portion: int = quirk(20, "webhooks served in one pass", "vendor source")
    webhook_batch: int = quirk(50, "objects in one delivery", "vendor source")
    webhook_attempts: int = quirk(4, "attempts for one object in all", "vendor source")
    webhook_retry_seconds: float = quirk(600.0, "pause between two attempts", "vendor source")
    webhook_address_check: bool = quirk(
        False, "internal hosts are refused unless allowed", "vendor source"
    )
    webhook_allowed_addresses: tuple[str, ...] = quirk(
        (), "`host:port` that may be internal (`webhookAllowedAddressList`)", "vendor source"
    )
    delivery_seconds: float = quirk(
        120.0, "pause between two passes of deliveries", "vendor source"
    )
