"""What is doubtful or changeable about xAI, each a named switch."""

from dataclasses import dataclass
from typing import Literal

from bitbylaw_simulators.quirks import quirk


@dataclass(frozen=True, slots=True)
class XaiQuirks:
    """The switches; defaults are what is most likely."""

    double_attach: Literal["200", "409"] = quirk(
        "200", "what attaching an attached file answers", "inferred"
    )
    delete_attached: Literal["vanish", "stay"] = quirk(
        "vanish", "deleting an attached file: its documents vanish everywhere, or stay", "inferred"
    )
    upload_limit_mib: int = quirk(
        48, "largest upload in MiB; above it 413 (other pages of the vendor say 50)", "vendor docs"
    )
    hash: Literal["blake3", "sha256", "null", "wrong", "absent"] = quirk(
        "blake3", "what a document's `hash` holds", "original docs"
    )
    size_bytes: Literal["string", "number"] = quirk(
        "string", "how a document's `size_bytes` is written", "third-party"
    )
    optional_keys: bool = quirk(
        True, "keys that may be null are there; off: they are left out", "inferred"
    )
    page_size: int = quirk(100, "entries on a page at most, whatever is asked", "vendor docs")
    list_shape: Literal["new", "old"] = quirk(
        "new",
        "file lists carry `pagination_token` only, or `object` and `has_more` too",
        "third-party",
    )
    indexing_by: Literal["time", "polls"] = quirk(
        "time", "what moves a document through its stages: time, or being looked at", "inferred"
    )
    indexing_stage_seconds: float = quirk(
        0.5, "how long each of the four stages takes when time moves them", "inferred"
    )
    indexing_stage_polls: int = quirk(
        1, "how many looks each of the four stages takes when looks move them", "inferred"
    )
    one_step_upload_fault: bool = quirk(
        True, "the one-step upload fails with 500 and `cf-ipcity`", "third-party"
    )
    error_shape: Literal["code", "error"] = quirk(
        "code", "errors are `{code, error}`, or `{error: {message, type, code}}`", "third-party"
    )
    wrong_api_key_status: Literal["400", "401"] = quirk(
        "400", "what an incorrect API key is answered with", "vendor docs"
    )
    api_key_blocked: bool = quirk(
        False, "the API key is blocked: 403 on its face, told by /v1/api-key", "vendor docs"
    )
    management_may_manage: bool = quirk(
        True,
        "off: the management key may attach, but not create, change or delete collections",
        "vendor docs",
    )
    patch_document: Literal["both", "fields", "reindex"] = quirk(
        "both",
        "PATCH on a document: sets `fields` where given, else indexes anew; or always one of them",
        "inferred",
    )
    clock_skew_seconds: float = quirk(
        0.0, "how far the stamps are ahead of the true time; negative: behind", "inferred"
    )
    files_per_collection: int = quirk(
        100_000, "files in one collection at most; above it 400", "vendor docs"
    )
