"""What is doubtful or changeable about Advoware, each a named switch."""

from dataclasses import dataclass
from typing import Literal

from bitbylaw_simulators.quirks import quirk


@dataclass(frozen=True, slots=True)
class AdvowareQuirks:
    """The switches; defaults are what is most likely."""

    # the configurator and the security gateway

    trailing_slashes: bool = quirk(True, "the configurator's addresses end in a slash", "inferred")
    connector_url: bool = quirk(
        False, "the configurator names a connector; then the relay refuses with 503", "vendor docs"
    )
    unknown_firm: Literal["404", "nulls"] = quirk(
        "404", "what the configurator answers for a firm that it does not know", "inferred"
    )
    gateway_status: Literal["400", "401", "403", "500", "503"] = quirk(
        "400", "the status of the gateway's refusals", "inferred"
    )
    gateway_errors: Literal["text", "json"] = quirk(
        "text", "the gateway's refusals are plain text, or `{message}`", "inferred"
    )
    licence: Literal["valid", "product", "user"] = quirk(
        "valid", "the product, or the user for it, is `nicht freigeschaltet`", "vendor code"
    )
    connector: Literal["online", "offline", "unregistered"] = quirk(
        "online",
        "the firm's connector: offline is `ist nicht angemeldet`, unregistered `ist nicht registriert`",
        "vendor code",
    )
    offline_status: Literal["503", "500", "502", "200"] = quirk(
        "503",
        "how the relay answers a call while the connector is away; the text tells",
        "inferred",
    )
    login_text: Literal["name", "user"] = quirk(
        "name",
        "`Falscher Name oder falsches Kennwort`, or `Benutzer / Kennwort ungültig`",
        "vendor code",
    )
    token_expiry: Literal["expiration_utc", "expires_in", "both", "none"] = quirk(
        "expiration_utc", "how a token's answer tells its end", "vendor code, third-party"
    )
    token_seconds: float = quirk(3600.0, "how long a token is valid", "third-party")
    single_token: bool = quirk(False, "a new token ends those that the same user had", "inferred")
    nonce_reuse: Literal["refused", "accepted"] = quirk(
        "refused", "what becomes of a token request whose nonce was used before", "inferred"
    )
    timestamp_tolerance_seconds: float = quirk(
        300.0, "how far `RequestTimeStamp` may be from the gateway's time", "inferred"
    )
    clock_skew_seconds: float = quirk(
        0.0, "how far Advoware's clock is ahead of the true time; negative: behind", "inferred"
    )

    # every resource

    path_prefix: Literal["both", "advonet", "plain"] = quirk(
        "both",
        "resources are under `/api/v1/advonet/`, under `/api/v1/`, or under both",
        "original docs, vendor docs",
    )
    logical_names: bool = quirk(
        True, "`employees` and `appointments` are resources as well", "original docs"
    )
    relay_seconds: float = quirk(
        0.0, "what the way through the firm's own server adds to every call", "inferred"
    )
    error_shape: Literal["message", "text"] = quirk(
        "message", "errors are `{message}`, or plain text", "inferred"
    )
    unknown_id: Literal["404", "500", "empty"] = quirk(
        "404",
        "reading what is not there: 404, 500 with a text, or 200 with nothing",
        "original docs",
    )
    key_case: Literal["camel", "pascal"] = quirk(
        "camel", "how keys are written: `betNr`, or `BetNr`", "original docs, vendor code"
    )
    null_keys: bool = quirk(
        True, "keys without a value are there; off: they are left out", "inferred"
    )
    single_record: Literal["list", "object"] = quirk(
        "list", "one record is read as a list of one, or as itself", "inferred"
    )
    empty_list: Literal["array", "null", "404"] = quirk(
        "array", "what a list without rows is answered with", "inferred"
    )
    list_envelope: Literal["none", "data"] = quirk(
        "none", "lists are arrays, or `{data, total}`", "original docs"
    )
    list_cap: int = quirk(
        0, "rows in a list at most, the rest left out without a word; 0: all", "inferred"
    )
    unknown_parameters: Literal["ignored", "400"] = quirk(
        "ignored", "what an unknown or misspelt query parameter does", "original docs"
    )
    ignored_filters: tuple[str, ...] = quirk(
        (), "known query parameters that have no effect", "inferred"
    )
    filter_case: Literal["exact", "any"] = quirk(
        "exact", "`frNr` is not `frnr`: in the wrong case a parameter is unknown", "original docs"
    )

    # writing

    create_status: Literal["200", "201"] = quirk("200", "the status of a creation", "inferred")
    update_answer: Literal["row", "empty"] = quirk(
        "row", "an update is answered with the row, or with 204", "original docs"
    )
    full_object_put: bool = quirk(
        True, "a field that a PUT leaves out is emptied; off: it stays", "inferred"
    )
    row_id: Literal["per_write", "per_change"] = quirk(
        "per_write",
        "`rowId` becomes another one by every write, or only by one that changes",
        "inferred",
    )
    party_row_id: Literal["stays", "changes"] = quirk(
        "stays",
        "what a Beteiligter's `rowId` and `geaendertAm` do when only rows below it change",
        "original docs",
    )
    row_id_required: tuple[str, ...] = quirk(
        ("Beteiligte",), "resources whose PUT must carry `rowId`, else 400", "inferred"
    )
    stale_row_id: Literal["409", "400", "500", "accepted"] = quirk(
        "409", "what a PUT with an old `rowId` is answered with", "inferred"
    )
    read_only_fields: Literal["ignored", "400"] = quirk(
        "ignored", "what a PUT that changes a read-only field gets", "original docs"
    )
    read_only_beteiligte: tuple[str, ...] = quirk(
        (
            "kurzname",
            "geburtsname",
            "familienstand",
            "art",
            "handelsRegisterNummer",
            "registergericht",
        ),
        "fields of a Beteiligter that a PUT does not change",
        "inferred",
    )
    read_only_kommunikation: tuple[str, ...] = quirk(
        ("kommKz",), "fields of a Kommunikation that a PUT does not change", "original docs"
    )
    read_only_adressen: tuple[str, ...] = quirk(
        (
            "land",
            "postfach",
            "postfachPLZ",
            "standardAnschrift",
            "bemerkung",
            "gueltigVon",
            "gueltigBis",
            "reihenfolgeIndex",
        ),
        "fields of an Adresse that a PUT does not change",
        "original docs",
    )
    delete_beteiligte: Literal["403", "deletes"] = quirk(
        "403", "what DELETE of a Beteiligter does", "inferred"
    )
    delete_below: Literal["403", "deletes"] = quirk(
        "403", "what DELETE of a Kommunikation or an Adresse does", "original docs"
    )
    bank_changes: Literal["405", "404", "403", "allowed"] = quirk(
        "405", "what PUT and DELETE of a Bankverbindung get: they are create-only", "original code"
    )
    bemerkung_limit: int = quirk(
        0, "characters kept of `bemerkung`, the rest cut off without a word; 0: all", "inferred"
    )

    # Beteiligte

    embedded: tuple[str, ...] = quirk(
        ("kommunikation", "adressen", "bankverbindungen"),
        "what a Beteiligter shows of the rows below it",
        "original docs, inferred",
    )
    contact_fields: bool = quirk(
        True,
        "a Beteiligter shows `mobil`, `telGesch` and the like on its top level",
        "original docs",
    )
    list_kommunikationen: bool = quirk(
        False,
        "GET lists the Kommunikationen alone; off: 405, they come with the Beteiligter",
        "inferred",
    )
    komm_kz: Literal["zero", "some", "real"] = quirk(
        "zero",
        "what GET shows as `kommKz`: 0, 0 for rows with an even `id`, or the real one as writes answer",
        "original docs",
    )
    address_key: Literal["id", "reihenfolgeIndex"] = quirk(
        "id", "what names an Adresse in a path", "inferred"
    )
    address_index: Literal["fixed", "position"] = quirk(
        "fixed", "`reihenfolgeIndex` stays, or is the place among those that are left", "inferred"
    )
    stamps: Literal["local", "utc"] = quirk(
        "local", "stamps of changes are German wall clock, or UTC with `Z`", "inferred, vendor code"
    )
    stamp_fraction: bool = quirk(False, "stamps of changes have a fraction", "vendor code")

    # Termine

    frnr_key: Literal["frNr", "FrNr", "frnr"] = quirk(
        "frNr", "how the key of a Termin is written in answers", "original docs, vendor code"
    )
    created_termin: Literal["key", "bare", "row"] = quirk(
        "key",
        "a created Termin is answered with its key, with the bare number, or whole",
        "vendor code",
    )
    termin_dates: Literal["date_time", "date"] = quirk(
        "date_time", "`datum` is `2026-03-09T00:00:00`, or `2026-03-09`", "original docs"
    )
    termin_times: Literal["separate", "in_datum"] = quirk(
        "separate", "the start is `uhrzeitVon`, or the time within `datum`", "vendor code"
    )
    ticks_override: bool = quirk(
        True, "`uhrzeitBisTicks` in a PUT beats `uhrzeitBis`", "vendor code"
    )
    notiz_crlf: bool = quirk(True, "line ends in `notiz` become CRLF", "vendor code")
    termin_stamp: Literal["server", "client"] = quirk(
        "server", "who sets `zuletztGeaendertAm` where a write carries it", "vendor code"
    )
    late_dates: Literal["400", "stored"] = quirk(
        "400", "what a Termin gets that ends after 2038-01-19", "inferred"
    )
    derived_rows: bool = quirk(
        True,
        "lists show preparation, journeys and holidays as rows with negative `frNr`",
        "vendor code",
    )
    derived_numbers: Literal["stable", "changing"] = quirk(
        "stable",
        "a derived row keeps its negative number, or has another one in every list",
        "inferred",
    )
    derived_delete: Literal["ignored", "404"] = quirk(
        "ignored", "what DELETE of a derived row does", "vendor code"
    )
    delete_unknown: Literal["200", "404"] = quirk(
        "404", "what DELETE of an unknown Termin is answered with", "vendor code"
    )
