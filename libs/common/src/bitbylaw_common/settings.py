"""The environment as typed values: every name the system reads, and models that read them."""

import base64
import difflib
import ipaddress
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from bitbylaw_common.errors import SettingsError

Group = Literal[
    "runtime",
    "http",
    "logs",
    "kafka",
    "redis",
    "espocrm",
    "xai",
    "documents",
    "ingest",
    "advoware",
    "calendar",
    "development",
]


@dataclass(frozen=True, slots=True)
class EnvName:
    """One name of the environment.

    Attributes:
        name: as it is written.
        group: what it belongs to, for the listing.
        secret: never shown; `{name}_FILE` may name a file that holds the value instead.
        default: what holds when it is not set, as it would be written; None: no default.
        description: for an operator; what it means and in which unit.
    """

    name: str
    group: Group
    secret: bool
    default: str | None
    description: str

    @property
    def file_name(self) -> str:
        """The name that points to a file with the value; it counts for secrets only."""
        return f"{self.name}{_FILE}"


_FILE = "_FILE"

# fmt: off
ENV: tuple[EnvName, ...] = (
    EnvName("CONCURRENCY", "runtime", False, "64", "keys worked on at once in one process"),
    EnvName("BBL_INSTANCE", "runtime", False, None, "stable name of this worker (a StatefulSet's pod name); only with it group membership is static"),
    EnvName("BBL_VERSION", "runtime", False, "dev", "version of the running code, as journal and metrics show it"),
    EnvName("BBL_SESSION_SECONDS", "runtime", False, "30", "a process that Kafka hears nothing of for so long loses its partitions"),
    EnvName("BBL_DRAIN_SECONDS", "runtime", False, None, "how long stopping may take to finish what runs; else the longest handler deadline plus 10"),
    EnvName("BBL_GRACE_SECONDS", "runtime", False, None, "after how long the platform kills a stopping process; checked against the drain at start"),
    EnvName("BBL_CONTROL_KEY", "runtime", True, None, "key that the control routes and the console ask for, at least 16 characters"),
    EnvName("BBL_DIGEST_KEY", "runtime", True, None, "key of the digests kept as last agreed state, at least 16 bytes; a new one makes every record a first sync"),
    EnvName("OTEL_EXPORTER_OTLP_ENDPOINT", "runtime", False, None, "base address of an OpenTelemetry collector that takes OTLP over HTTP, such as http://collector:4318; unset: no spans are exported"),
    EnvName("OTEL_EXPORTER_OTLP_HEADERS", "runtime", True, None, "what the collector asks for: name=value, separated by commas, values percent-encoded"),
    EnvName("OTEL_EXPORTER_OTLP_CERTIFICATE", "runtime", False, None, "PEM file of the authority that signed the collector; else the usual ones"),
    EnvName("OTEL_TRACES_SAMPLER_ARG", "runtime", False, "1", "share of the traces begun here that are recorded, 0 to 1; a trace begun elsewhere stays as it is"),
    EnvName("HTTP_HOST", "http", False, "127.0.0.1", "address to listen on; 0.0.0.0 needs keys and webhook secrets"),
    EnvName("HTTP_PORT", "http", False, "3111", "port to listen on; 0 takes a free one"),
    EnvName("LOG_FORMAT", "logs", False, "json", "json (one object a line) or console (banners and colours)"),
    EnvName("LOG_LEVEL", "logs", False, "info", "debug, info, warning or error"),
    EnvName("KAFKA_BOOTSTRAP_SERVERS", "kafka", False, None, "brokers to begin with: host:port, separated by commas"),
    EnvName("KAFKA_SECURITY_PROTOCOL", "kafka", False, "PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    EnvName("KAFKA_SASL_MECHANISM", "kafka", False, "SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; read with a SASL protocol"),
    EnvName("KAFKA_SASL_USERNAME", "kafka", False, None, "user of the SASL login"),
    EnvName("KAFKA_SASL_PASSWORD", "kafka", True, None, "password of the SASL login"),
    EnvName("KAFKA_TLS_CA_FILE", "kafka", False, None, "PEM file of the authority that signed the brokers; else the system's"),
    EnvName("KAFKA_TLS_CERT_FILE", "kafka", False, None, "PEM file of our client certificate"),
    EnvName("KAFKA_TLS_KEY_FILE", "kafka", False, None, "PEM file of our client certificate's key"),
    EnvName("KAFKA_TLS_KEY_PASSWORD", "kafka", True, None, "password of that key"),
    EnvName("REDIS_URL", "redis", True, None, "redis://user:password@host:port/db or rediss://; stands in for all other REDIS names but the time-out"),
    EnvName("REDIS_HOST", "redis", False, "localhost", "host"),
    EnvName("REDIS_PORT", "redis", False, "6379", "port"),
    EnvName("REDIS_USERNAME", "redis", False, None, "user, where Redis has users"),
    EnvName("REDIS_PASSWORD", "redis", True, None, "password"),
    EnvName("REDIS_TLS", "redis", False, "false", "true: connect with TLS"),
    EnvName("REDIS_TLS_CA_FILE", "redis", False, None, "PEM file of the authority that signed Redis; else the system's"),
    EnvName("REDIS_TIMEOUT_SECONDS", "redis", False, "5", "longest wait for an answer, in seconds"),
    EnvName("REDIS_DB_ADVOWARE_CACHE", "redis", False, "1", "database of the token cache, and of the locks as in the predecessor"),
    EnvName("REDIS_DB_CALENDAR_SYNC", "redis", False, "2", "database of the calendar sync"),
    EnvName("ESPOCRM_API_BASE_URL", "espocrm", False, None, "EspoCRM's API, such as https://crm.example.org/api/v1"),
    EnvName("ESPOCRM_API_KEY", "espocrm", True, None, "API key of our EspoCRM user"),
    EnvName("ESPOCRM_MARVIN_API_KEY", "espocrm", True, None, "older name of ESPOCRM_API_KEY"),
    EnvName("ESPOCRM_API_TIMEOUT_SECONDS", "espocrm", False, "30", "longest wait for an answer, in seconds"),
    EnvName("ESPOCRM_METADATA_TTL_SECONDS", "espocrm", False, "300", "how long EspoCRM's list of fields is believed, in seconds"),
    EnvName("ESPOCRM_RATE_PER_SECOND", "espocrm", False, None, "calls a second at most, of all processes together; else as fast as it answers"),
    EnvName("ESPOCRM_WEBHOOK_BASE_URL", "espocrm", False, None, "where EspoCRM reaches ingest, such as https://hooks.example.org; the webhooks' routes are added"),
    EnvName("ESPOCRM_NOTIFY_USER_ID", "espocrm", False, None, "EspoCRM user who is told what a person must do about a record that is assigned to nobody; else only the record says it"),
    EnvName("ESPOCRM_WEBHOOK_SECRETS", "espocrm", True, None, "secrets of the webhooks: webhookid=secret, separated by commas; webhookid=old|new while one is exchanged"),
    EnvName("XAI_API_KEY", "xai", True, None, "key for files (xai-...)"),
    EnvName("XAI_MANAGEMENT_KEY", "xai", True, None, "key for collections (xai-token-...)"),
    EnvName("XAI_MANAGEMENT_API_KEY", "xai", True, None, "xAI's other name of XAI_MANAGEMENT_KEY"),
    EnvName("XAI_FILES_URL", "xai", False, "https://api.x.ai", "where files are kept"),
    EnvName("XAI_MANAGEMENT_URL", "xai", False, "https://management-api.x.ai", "where collections are managed"),
    EnvName("XAI_API_TIMEOUT_SECONDS", "xai", False, "30", "longest wait for an answer, in seconds"),
    EnvName("XAI_UPLOAD_TIMEOUT_SECONDS", "xai", False, "120", "longest time an upload may take, in seconds"),
    EnvName("XAI_RATE_PER_SECOND", "xai", False, None, "calls a second at most, of all processes together; else as fast as it answers"),
    EnvName("XAI_SETTLE_SECONDS", "xai", False, "180", "after an upload without an answer: how long until it is looked for again, in seconds"),
    EnvName("XAI_INDEXING_SECONDS", "xai", False, "21600", "how long xAI may take to make a file searchable, in seconds; then the record says that it failed"),
    EnvName("XAI_FILE_POLICY", "xai", False, "keep", "the file of a deleted or unlinked document: keep or delete"),
    EnvName("XAI_ORPHAN_POLICY", "xai", False, "list", "files that no document knows: list them, detach them from the collections, or delete them"),
    EnvName("XAI_ORPHAN_SETTLE_SECONDS", "xai", False, "72000", "how long a file must be known as nobody's before it is removed, in seconds"),
    EnvName("DOCUMENT_COLLECTION_LINKS", "documents", False, "cAIKnowledges:datenbankId:aktivierungsstatus", "links that lead to collections: link:field of the collection id:field of its activation, separated by commas"),
    EnvName("DOCUMENT_BRAKE_UPLOADS", "documents", False, "4/1000", "files uploaded: at most so many in one run / in an hour, by all processes together; beyond it the brake trips"),
    EnvName("DOCUMENT_BRAKE_DELETES", "documents", False, "10/50", "files deleted at xAI, in one run / in an hour"),
    EnvName("DOCUMENT_BRAKE_DETACHES", "documents", False, "100/500", "files taken out of a collection, in one run / in an hour"),
    EnvName("DOCUMENT_BRAKE_OVERWRITES", "documents", False, "8/2000", "values of a record that are replaced by others, in one run / in an hour"),
    EnvName("DOCUMENT_BRAKE_RECORDS", "documents", False, "1/1000/25%", "documents that anything is changed about: 1 / in an hour / or this share of all, whichever is more"),
    EnvName("DOCUMENT_FILE_LINK", "documents", False, "dokument", "link from a document to its attachment"),
    EnvName("DOCUMENT_STATUS_FIELD", "documents", False, "fileStatus", "field that shows people how far a document is"),
    EnvName("DOCUMENT_KNOWLEDGE_BASES", "documents", False, "false", "true: the collections of knowledge bases are made, filled and deleted here; else somebody does it by hand"),
    EnvName("INGEST_UNSIGNED", "ingest", False, None, "webhooks without a signature: accept or reject; else reject once secrets exist"),
    EnvName("ADVOWARE_CONFIGURATOR_URL", "advoware", False, "https://www2.advo-net.net/AdvonetConfigurator/api/Url", "tells where the firm's API and its logins are; off: the two addresses below are used unasked"),
    EnvName("ADVOWARE_API_BASE_URL", "advoware", False, None, "Advoware's API, such as https://www2.advo-net.net:90, while the configurator does not answer"),
    EnvName("ADVOWARE_SECURITY_GATEWAY_URL", "advoware", False, "https://security.advo-net.net", "where Advoware's tokens come from, while the configurator does not answer"),
    EnvName("ADVOWARE_PATH_PREFIX", "advoware", False, "api/v1/advonet/", "goes before the path of every resource"),
    EnvName("ADVOWARE_APP_ID", "advoware", False, None, "id of our application, as the vendor enabled it for the firm"),
    EnvName("ADVOWARE_API_KEY", "advoware", True, None, "key that signs token requests (base64)"),
    EnvName("ADVOWARE_API_SECRET", "advoware", True, None, "other name of ADVOWARE_API_KEY"),
    EnvName("ADVOWARE_PRODUCT_ID", "advoware", False, "64", "number of the product; 64 for everybody but the vendor"),
    EnvName("ADVOWARE_KANZLEI", "advoware", False, None, "code of the firm (Kanzleikennung)"),
    EnvName("ADVOWARE_DATABASE", "advoware", False, None, "name of the firm's database"),
    EnvName("ADVOWARE_USER", "advoware", False, None, "initials of the employee that we log in as"),
    EnvName("ADVOWARE_ROLE", "advoware", False, "2", "number of the user's role"),
    EnvName("ADVOWARE_PASSWORD", "advoware", True, None, "password of that employee"),
    EnvName("ADVOWARE_TOKEN_LIFETIME_MINUTES", "advoware", False, "55", "how long a token is used at most, in minutes; less where Advoware says less"),
    EnvName("ADVOWARE_API_TIMEOUT_SECONDS", "advoware", False, "30", "longest wait for an answer, in seconds"),
    EnvName("ADVOWARE_RATE_PER_SECOND", "advoware", False, None, "calls a second at most, of all processes together; else as fast as it answers"),
    EnvName("ADVOWARE_CONCURRENCY", "advoware", False, "5", "calls under way at once in one process; they all end in the firm's own server"),
    EnvName("ADVOWARE_PROXY_CALLERS", "advoware", True, None, "who may use the proxy, as JSON: a list of {name, keys, scopes: [{endpoints, methods}], per_minute}"),
    EnvName("ADVOWARE_PROXY_STATUS", "advoware", False, "upstream", "status of the proxy's answers: upstream (Advoware's own) or original (200 or 500, as the predecessor)"),
    EnvName("ADVOWARE_PROXY_TIMEOUT_SECONDS", "advoware", False, "150", "longest time a call through the proxy may take with both bodies, in seconds"),
    EnvName("CALENDAR_SYNC_DEBUG_KUERZEL", "calendar", False, None, "initials of the only employees to sync, separated by commas; else everyone"),
    EnvName("BBL_TEST_BACKEND", "development", False, None, "where tests take Kafka and Redis from: devstack; else what is there"),
)
"""The catalogue: a name that is not here is read by nobody."""
# fmt: on

CATALOGUE: Mapping[str, EnvName] = MappingProxyType({row.name: row for row in ENV})

PREFIXES = (
    "ADVOWARE_",
    "BBL_",
    "CALENDAR_",
    "DOCUMENT_",
    "ESPOCRM_",
    "HTTP_",
    "INGEST_",
    "KAFKA_",
    "LOG_",
    # Whole names: clusters and the collector's own tools set other names that begin with OTEL_.
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER_ARG",
    "REDIS_",
    "XAI_",
)
"""Names that begin so are ours, and a misspelt one is refused."""

_FOREIGN = frozenset({"HTTP_PROXY"})
"""Names with such a beginning that the rest of the world sets."""

_INJECTED = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_INJECTED_PORT = re.compile(r"^(tcp|udp|sctp)://")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_FILE_LIMIT_BYTES = 64 * 1024
_REMEMBERED_AT_LEAST = 6


class EnvModel(BaseModel):
    """Settings read from an environment.

    A field's alias is the name in the environment; a field whose type is itself an `EnvModel` is
    read from the same environment. Fields can be given by their own names too, as tests do.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_alias=True,
        validate_by_name=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings; blank values count as not set, secrets may come from files.

        Raises:
            SettingsError: all that is missing, misspelt or unfit, one line each; it never
                carries the value of a secret.
        """
        problems = [*misspelt(env)]
        given = _values(cls, env, problems)
        try:
            settings = cls.model_validate(given)
        except ValidationError as unfit:
            told = {problem.name for problem in problems}
            problems += [problem for problem in _problems(unfit, env) if problem.name not in told]
        else:
            if not problems:
                return settings
        raise SettingsError(_text(problems)) from None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the environment: the name it is about, and what to do, in words."""

    name: str
    text: str


def misspelt(env: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for each name that looks like ours and is none; what clusters inject is fine."""
    known = {*CATALOGUE, *(row.file_name for row in ENV if row.secret)}
    for name in sorted(env):
        if name in known or name in _FOREIGN or not name.startswith(PREFIXES):
            continue
        if _INJECTED.search(name) or _injected_port(name, env[name]):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
        yield Problem(
            name, f"{name} is no name that anything reads: rename it to {near}, or remove it"
        )


def secret_values(env: Mapping[str, str]) -> frozenset[str]:
    """Return every secret in `env` and its files, whole and in parts, so that logs can hide them.

    Never refuses: what cannot be read is no secret that could leak.
    """
    found: set[str] = set()
    for row in ENV:
        value = _given(row, env, []) if row.secret else None
        if value is not None:
            found.update(_hidden_parts(row, value))
    return frozenset(part for part in found if len(part) >= _REMEMBERED_AT_LEAST)


def _hidden_parts(row: EnvName, value: str) -> Iterator[str]:
    yield value
    if row.name == "ESPOCRM_WEBHOOK_SECRETS":
        for entry in value.split(","):
            yield from (part.strip() for part in entry.partition("=")[2].split("|"))
    if row.name == "ADVOWARE_PROXY_CALLERS":
        yield from _proxy_keys(value)
    if row.name == "OTEL_EXPORTER_OTLP_HEADERS":
        for entry in value.split(","):
            text = entry.partition("=")[2].strip()
            yield from (text, unquote(text), unquote(text).rpartition(" ")[2])
    if "://" in value:
        login = value.partition("://")[2].rpartition("@")[0]
        password = login.partition(":")[2]
        yield from (password, unquote(password))


def _proxy_keys(text: str) -> Iterator[str]:
    try:
        callers = json.loads(text)
    except (ValueError, RecursionError):
        return
    for caller in callers if isinstance(callers, list) else ():
        keys = caller.get("keys") if isinstance(caller, dict) else None
        for key in keys if isinstance(keys, list) else ():
            yield str(key)


def differences(model: type[EnvModel]) -> tuple[str, ...]:
    """Return where `model` and the catalogue disagree, in words; a test asks for none.

    Checked are: the name is in the catalogue, its default is the model's, and what is secret in
    one is secret in the other.
    """
    return tuple(_differences(model))


def _differences(model: type[EnvModel]) -> Iterator[str]:
    for attribute, field in model.model_fields.items():
        where = f"{model.__name__}.{attribute}"
        group = _group(field)
        if group is not None:
            yield from _differences(group)
            continue
        names = _names(field)
        if not names:
            yield f"{where} has no alias, so no environment could set it"
        for name in names:
            row = CATALOGUE.get(name)
            if row is None:
                yield f"{where} reads {name}, which is not in the catalogue (settings.ENV)"
            elif row.secret != ("SecretStr" in str(field.annotation)):
                yield f"{where} and the catalogue disagree whether {name} is a secret"
        row = CATALOGUE.get(names[0]) if names else None
        if row is not None and row.default != _default_text(field, row.default):
            yield f"{where} defaults to {field.default!r}, {row.name} in the catalogue to {row.default!r}"


def _default_text(field: FieldInfo, text: str | None) -> str | None:
    """Return `text` if it means the field's default; else the default as text, None for none."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if text is None:
        return None if not default else str(default)
    annotated: Any = field.annotation
    for constraint in field.metadata:
        annotated = Annotated[annotated, constraint]
    return text if TypeAdapter(annotated).validate_python(text) == default else str(default)


def _group(field: FieldInfo) -> type[EnvModel] | None:
    annotation: object = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, EnvModel):
        return annotation
    return None


def _names(field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(choice for choice in alias.choices if isinstance(choice, str))
    return (alias,) if isinstance(alias, str) else ()


def _values(
    model: type[EnvModel], env: Mapping[str, str], problems: list[Problem]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute, field in model.model_fields.items():
        group = _group(field)
        if group is not None:
            values[attribute] = _values(group, env, problems)
            continue
        for name in _names(field):
            row = CATALOGUE.get(name, EnvName(name, "runtime", False, None, ""))
            value = _given(row, env, problems)
            if value is not None:
                values[name] = value
                break
    return values


def _given(row: EnvName, env: Mapping[str, str], problems: list[Problem]) -> str | None:
    """Return the value of `row` from `env` or its file, None when there is none."""
    value = env.get(row.name, "").strip()
    if _injected_port(row.name, value):
        value = ""
    path = env.get(row.file_name, "").strip() if row.secret else ""
    if not path:
        return value or None
    if value:
        problems.append(
            Problem(row.name, f"{row.name} and {row.file_name} are both set: remove one of them")
        )
        return None
    try:
        content = _secret_file(Path(path))
    except (OSError, ValueError) as unreadable:
        reason = unreadable.strerror if isinstance(unreadable, OSError) else str(unreadable)
        problems.append(
            Problem(
                row.name,
                f"{row.file_name} names {path}, which cannot be used ({reason}): "
                f"put the {row.description} there, readable for this process",
            )
        )
        return None
    return content


def _secret_file(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_SECRET_FILE_LIMIT_BYTES + 1)
    if len(content) > _SECRET_FILE_LIMIT_BYTES:
        raise ValueError(f"larger than {_SECRET_FILE_LIMIT_BYTES // 1024} KiB")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if not text:
        raise ValueError("empty")
    return text


def _injected_port(name: str, value: str) -> bool:
    """Say whether it is what a cluster sets for a service of that name: REDIS_PORT=tcp://..."""
    return name.endswith("_PORT") and _INJECTED_PORT.match(value) is not None


def _problems(unfit: ValidationError, env: Mapping[str, str]) -> Iterator[Problem]:
    for error in unfit.errors(include_url=False, include_context=False, include_input=False):
        name = next((str(part) for part in reversed(error["loc"]) if part in CATALOGUE), "")
        message = error["msg"].removeprefix("Value error, ")
        if not name:  # a rule over several names, which names them itself
            yield Problem("", message)
        elif error["type"] == "missing":
            yield _missing(CATALOGUE[name], env)
        else:
            yield _unfit(CATALOGUE[name], message[:1].lower() + message[1:], env)


def _missing(row: EnvName, env: Mapping[str, str]) -> Problem:
    unknown = [name for name in env if name not in CATALOGUE and env[name].strip()]
    near = difflib.get_close_matches(row.name, sorted(unknown), n=1, cutoff=0.8)
    hint = f"; {near[0]} is set, was that meant?" if near else ""
    return Problem(
        row.name, f"{row.name} is missing: set it in {_places(row)} ({row.description}){hint}"
    )


def _unfit(row: EnvName, message: str, env: Mapping[str, str]) -> Problem:
    shown = "" if row.secret else f"={env.get(row.name, '').strip()!r}"
    default = f"; default: {row.default}" if row.default is not None else ""
    return Problem(
        row.name,
        f"{row.name}{shown} does not fit: {message}; "
        f"change it in {_places(row)} ({row.description}{default})",
    )


def _places(row: EnvName) -> str:
    if row.secret:
        return f"the service's environment, or in a file that {row.file_name} names"
    return "the service's environment"


def _text(problems: list[Problem]) -> str:
    count = "1 setting does" if len(problems) == 1 else f"{len(problems)} settings do"
    lines = "".join(f"\n  - {problem.text}" for problem in problems)
    return f"{count} not fit:{lines}\n`bbl env` lists every name with its meaning and default."


# -- kinds of value -------------------------------------------------------------------------------


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that begins with http:// or https:// and names a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query or fragment")
    return text.rstrip("/")


def _servers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    if not all(re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", s) for s in servers):
        raise ValueError("must be host:port, several separated by commas")
    return ",".join(servers)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _readable_file(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("must name a file that this process may read")
    return path


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < 16:
        raise ValueError("must have at least 16 bytes; `openssl rand -hex 32` makes one")
    return secret


def _base64_key(secret: SecretStr) -> SecretStr:
    try:
        key = base64.b64decode(secret.get_secret_value(), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("must be base64, exactly as the vendor handed it over")
    return secret


def _path_prefix(text: str) -> str:
    segments = text.strip("/").split("/")
    if not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", segment) for segment in segments):
        raise ValueError("must be a path such as api/v1/advonet/")
    return "/".join(segments) + "/"


def _webhook_secrets(value: object) -> object:
    """Read `webhookid=secret|secret2,otherid=secret`; a mapping goes through as it is."""
    if not isinstance(value, str):
        return value
    secrets: dict[str, tuple[SecretStr, ...]] = {}
    for number, entry in enumerate(value.split(","), start=1):
        webhook_id, equals, alternatives = entry.strip().partition("=")
        parts = [part.strip() for part in alternatives.split("|")]
        if not equals or not webhook_id.strip() or not all(parts):
            raise ValueError(f"entry {number} must be webhookid=secret or webhookid=secret|secret2")
        if len(parts) > 2:
            raise ValueError(f"entry {number} has {len(parts)} secrets; at most two hold at once")
        if webhook_id.strip() in secrets:
            raise ValueError(f"entry {number} names a webhook for the second time")
        secrets[webhook_id.strip()] = tuple(SecretStr(part) for part in parts)
    return secrets


def _otlp_headers(secret: SecretStr) -> SecretStr:
    for number, entry in enumerate(secret.get_secret_value().split(","), start=1):
        name, equals, value = entry.partition("=")
        if not equals or not _HEADER_NAME.fullmatch(name.strip()):
            raise ValueError(f"entry {number} must be name=value, the name that of an HTTP header")
        text = unquote(value.strip())
        if not text.isascii() or not text.isprintable():
            raise ValueError(f"the value of entry {number} cannot be sent in an HTTP header")
    return secret


def _record_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,36}", text):
        raise ValueError("must be the id of a record, as it stands at the end of its address")
    return text


RecordId = Annotated[str, AfterValidator(_record_id)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
"""An http or https address without its last slash."""

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
RatePerSecond = Annotated[float, Field(ge=0.01, le=100_000, allow_inf_nan=False)]
ReadableFile = Annotated[Path, AfterValidator(_readable_file)]
Key = Annotated[SecretStr, AfterValidator(_long_enough)]
Base64Key = Annotated[SecretStr, AfterValidator(_base64_key)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
"""The beginning of a path, without a slash before it and with one at its end."""

WebhookSecrets = Annotated[Mapping[str, tuple[SecretStr, ...]], BeforeValidator(_webhook_secrets)]
"""By webhook id, one secret or two while one is exchanged."""


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# -- groups that several services share -----------------------------------------------------------


class RuntimeSettings(EnvModel):
    """What every service reads, whatever it does."""

    concurrency: Annotated[int, Field(ge=1, le=4096)] = Field(64, validation_alias="CONCURRENCY")
    instance: str | None = Field(None, validation_alias="BBL_INSTANCE")
    version: str = Field("dev", validation_alias="BBL_VERSION")
    session_seconds: Annotated[float, Field(ge=6, le=300)] = Field(
        30.0, validation_alias="BBL_SESSION_SECONDS"
    )
    drain_seconds: Seconds | None = Field(None, validation_alias="BBL_DRAIN_SECONDS")
    grace_seconds: Seconds | None = Field(None, validation_alias="BBL_GRACE_SECONDS")
    control_key: Key | None = Field(None, validation_alias="BBL_CONTROL_KEY")
    http_host: str = Field("127.0.0.1", validation_alias="HTTP_HOST")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(3111, validation_alias="HTTP_PORT")
    log_format: Annotated[Literal["json", "console"], BeforeValidator(_lower)] = Field(
        "json", validation_alias="LOG_FORMAT"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        Field("info", validation_alias="LOG_LEVEL")
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the HTTP port."""
        return is_loopback(self.http_host)


class KafkaSettings(EnvModel):
    """How to reach Kafka."""

    bootstrap_servers: Annotated[str, AfterValidator(_servers)] = Field(
        validation_alias="KAFKA_BOOTSTRAP_SERVERS"
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = Field("PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL")
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)
    ] = Field("SCRAM-SHA-512", validation_alias="KAFKA_SASL_MECHANISM")
    sasl_username: str | None = Field(None, validation_alias="KAFKA_SASL_USERNAME")
    sasl_password: SecretStr | None = Field(None, validation_alias="KAFKA_SASL_PASSWORD")
    tls_ca_file: ReadableFile | None = Field(None, validation_alias="KAFKA_TLS_CA_FILE")
    tls_cert_file: ReadableFile | None = Field(None, validation_alias="KAFKA_TLS_CERT_FILE")
    tls_key_file: ReadableFile | None = Field(None, validation_alias="KAFKA_TLS_KEY_FILE")
    tls_key_password: SecretStr | None = Field(None, validation_alias="KAFKA_TLS_KEY_PASSWORD")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = self.sasl_username is not None and self.sasl_password is not None
        if self.security_protocol.startswith("SASL_") and not named:
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs "
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )
        if self.sasl_username is not None and not self.security_protocol.startswith("SASL_"):
            raise ValueError(
                "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL="
                f"{self.security_protocol} would not use it: set SASL_SSL"
            )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE go together: set both")
        if self.tls_ca_file is not None and not self.security_protocol.endswith("SSL"):
            raise ValueError(
                "KAFKA_TLS_CA_FILE is set, but KAFKA_SECURITY_PROTOCOL="
                f"{self.security_protocol} would not use it: set SSL or SASL_SSL"
            )
        return self

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments that every aiokafka client takes to connect.

        Raises:
            SettingsError: a certificate or key file does not hold what it should.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.sasl_username is not None and self.sasl_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        password = self.tls_key_password.get_secret_value() if self.tls_key_password else None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
            if self.tls_cert_file is not None:
                # an empty answer, not a question at the terminal, where a key wants a password
                context.load_cert_chain(
                    self.tls_cert_file, self.tls_key_file, password=lambda: password or ""
                )
        except (ssl.SSLError, OSError) as unusable:
            reason = getattr(unusable, "reason", None) or unusable.strerror or "unreadable"
            raise SettingsError(
                f"KAFKA_TLS_CA_FILE, KAFKA_TLS_CERT_FILE or KAFKA_TLS_KEY_FILE: {reason}; "
                "each must be a PEM file, the key with KAFKA_TLS_KEY_PASSWORD if it has one"
            ) from None
        return context


class RedisSettings(EnvModel):
    """How to reach Redis; REDIS_URL, where given, stands in for host, port, login and TLS."""

    url: SecretStr | None = Field(None, validation_alias="REDIS_URL")
    host: str = Field("localhost", validation_alias="REDIS_HOST")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(6379, validation_alias="REDIS_PORT")
    username: str | None = Field(None, validation_alias="REDIS_USERNAME")
    password: SecretStr | None = Field(None, validation_alias="REDIS_PASSWORD")
    tls: bool = Field(False, validation_alias="REDIS_TLS")
    tls_ca_file: ReadableFile | None = Field(None, validation_alias="REDIS_TLS_CA_FILE")
    timeout_seconds: Seconds = Field(5, validation_alias="REDIS_TIMEOUT_SECONDS")
    db_advoware_cache: Annotated[int, Field(ge=0)] = Field(
        1, validation_alias="REDIS_DB_ADVOWARE_CACHE"
    )
    db_calendar_sync: Annotated[int, Field(ge=0)] = Field(
        2, validation_alias="REDIS_DB_CALENDAR_SYNC"
    )

    @model_validator(mode="after")
    def _url_fits(self) -> Self:
        if self.url is not None:
            parts = urlsplit(self.url.get_secret_value())
            if parts.scheme not in ("redis", "rediss") or not parts.hostname:
                raise ValueError(
                    "REDIS_URL must begin with redis:// or rediss:// and name a host, "
                    "as in redis://localhost:6379/1"
                )
        return self

    def connection_url(self, db: int) -> SecretStr:
        """Return the URL of database `db`; a database that REDIS_URL itself names comes first."""
        if self.url is not None:
            parts = urlsplit(self.url.get_secret_value())
            path = parts.path if parts.path.strip("/") else f"/{db}"
            return SecretStr(urlunsplit(parts._replace(path=path)))
        login = ""
        if self.username or self.password:
            password = self.password.get_secret_value() if self.password else ""
            login = f"{quote(self.username or '', safe='')}:{quote(password, safe='')}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "rediss" if self.tls else "redis"
        ca = (
            f"?ssl_ca_certs={quote(str(self.tls_ca_file))}" if self.tls and self.tls_ca_file else ""
        )
        return SecretStr(f"{scheme}://{login}{host}:{self.port}/{db}{ca}")


class EspoSettings(EnvModel):
    """How to reach EspoCRM, and how it reaches us."""

    base_url: HttpUrl = Field(validation_alias="ESPOCRM_API_BASE_URL")
    api_key: SecretStr = Field(
        validation_alias=AliasChoices("ESPOCRM_API_KEY", "ESPOCRM_MARVIN_API_KEY")
    )
    timeout_seconds: Seconds = Field(30, validation_alias="ESPOCRM_API_TIMEOUT_SECONDS")
    metadata_ttl_seconds: Seconds = Field(300, validation_alias="ESPOCRM_METADATA_TTL_SECONDS")
    rate_per_second: RatePerSecond | None = Field(None, validation_alias="ESPOCRM_RATE_PER_SECOND")
    webhook_base_url: HttpUrl | None = Field(None, validation_alias="ESPOCRM_WEBHOOK_BASE_URL")
    notify_user_id: RecordId | None = Field(None, validation_alias="ESPOCRM_NOTIFY_USER_ID")


class XaiSettings(EnvModel):
    """How to reach xAI's files and collections."""

    api_key: SecretStr = Field(validation_alias="XAI_API_KEY")
    management_key: SecretStr = Field(
        validation_alias=AliasChoices("XAI_MANAGEMENT_KEY", "XAI_MANAGEMENT_API_KEY")
    )
    files_url: HttpUrl = Field("https://api.x.ai", validation_alias="XAI_FILES_URL")
    management_url: HttpUrl = Field(
        "https://management-api.x.ai", validation_alias="XAI_MANAGEMENT_URL"
    )
    timeout_seconds: Seconds = Field(30, validation_alias="XAI_API_TIMEOUT_SECONDS")
    upload_timeout_seconds: Seconds = Field(120, validation_alias="XAI_UPLOAD_TIMEOUT_SECONDS")
    rate_per_second: RatePerSecond | None = Field(None, validation_alias="XAI_RATE_PER_SECOND")


class AdvowareSettings(EnvModel):
    """How to reach and to log in to Advoware."""

    configurator_url: Literal["off"] | HttpUrl = Field(
        "https://www2.advo-net.net/AdvonetConfigurator/api/Url",
        validation_alias="ADVOWARE_CONFIGURATOR_URL",
    )
    base_url: HttpUrl | None = Field(None, validation_alias="ADVOWARE_API_BASE_URL")
    security_gateway_url: HttpUrl = Field(
        "https://security.advo-net.net", validation_alias="ADVOWARE_SECURITY_GATEWAY_URL"
    )
    path_prefix: PathPrefix = Field("api/v1/advonet/", validation_alias="ADVOWARE_PATH_PREFIX")
    app_id: str = Field(validation_alias="ADVOWARE_APP_ID")
    api_key: Base64Key = Field(
        validation_alias=AliasChoices("ADVOWARE_API_KEY", "ADVOWARE_API_SECRET")
    )
    product_id: int = Field(64, validation_alias="ADVOWARE_PRODUCT_ID")
    kanzlei: str = Field(validation_alias="ADVOWARE_KANZLEI")
    database: str = Field(validation_alias="ADVOWARE_DATABASE")
    user: str = Field(validation_alias="ADVOWARE_USER")
    role: int = Field(2, validation_alias="ADVOWARE_ROLE")
    password: SecretStr = Field(validation_alias="ADVOWARE_PASSWORD")
    token_lifetime_minutes: Annotated[float, Field(gt=0, le=1440, allow_inf_nan=False)] = Field(
        55, validation_alias="ADVOWARE_TOKEN_LIFETIME_MINUTES"
    )
    timeout_seconds: Seconds = Field(30, validation_alias="ADVOWARE_API_TIMEOUT_SECONDS")
    rate_per_second: RatePerSecond | None = Field(None, validation_alias="ADVOWARE_RATE_PER_SECOND")
    concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(
        5, validation_alias="ADVOWARE_CONCURRENCY"
    )

    @model_validator(mode="after")
    def _findable(self) -> Self:
        if self.configurator_url == "off" and self.base_url is None:
            raise ValueError("ADVOWARE_CONFIGURATOR_URL=off needs ADVOWARE_API_BASE_URL: set it")
        return self


class WebhookSettings(EnvModel):
    """Who may post webhooks: the rule for unsigned ones is `accepts_unsigned`."""

    secrets: WebhookSecrets = Field({}, validation_alias="ESPOCRM_WEBHOOK_SECRETS")
    unsigned: Annotated[Literal["accept", "reject"] | None, BeforeValidator(_lower)] = Field(
        None, validation_alias="INGEST_UNSIGNED"
    )

    def accepts_unsigned(self, http_host: str) -> bool:
        """Say whether posts without a signature are taken by a service listening on `http_host`.

        Secrets are enforced once they exist. Without any, INGEST_UNSIGNED decides, and unset it
        is accepted where only this machine can post.

        Raises:
            SettingsError: the rule cannot hold: no secrets and reachable from outside without
                INGEST_UNSIGNED, or secrets together with INGEST_UNSIGNED=accept.
        """
        if self.secrets:
            if self.unsigned == "accept":
                raise SettingsError(
                    "INGEST_UNSIGNED=accept would make ESPOCRM_WEBHOOK_SECRETS worthless: "
                    "remove one of them"
                )
            return False
        if self.unsigned is None and not is_loopback(http_host):
            raise SettingsError(
                f"HTTP_HOST={http_host} can be reached from outside, and no webhook has a secret: "
                "set ESPOCRM_WEBHOOK_SECRETS (bbl espocrm webhooks apply makes them), "
                "or INGEST_UNSIGNED=accept if something in front checks who posts"
            )
        return self.unsigned != "reject"


class DigestSettings(EnvModel):
    """The key of the digests in `{service}.base`."""

    digest_key: Key = Field(validation_alias="BBL_DIGEST_KEY")


class TraceSettings(EnvModel):
    """Where spans go; nowhere without an endpoint."""

    endpoint: HttpUrl | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    headers: Annotated[SecretStr, AfterValidator(_otlp_headers)] | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_HEADERS"
    )
    certificate: ReadableFile | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_CERTIFICATE"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1, validation_alias="OTEL_TRACES_SAMPLER_ARG"
    )

    @model_validator(mode="after")
    def _base(self) -> Self:
        if self.endpoint is not None and self.endpoint.endswith("/v1/traces"):
            raise ValueError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is the collector's base address: "
                "leave out /v1/traces, which is added"
            )
        return self

    @property
    def traces_url(self) -> str:
        """Where spans are posted.

        Raises:
            SettingsError: there is no endpoint.
        """
        if self.endpoint is None:
            raise SettingsError("OTEL_EXPORTER_OTLP_ENDPOINT is not set")
        return f"{self.endpoint}/v1/traces"

    def header_values(self) -> dict[str, str]:
        """Return the headers to send along, in clear: for the request and for nothing else."""
        if self.headers is None:
            return {}
        pairs = (entry.partition("=") for entry in self.headers.get_secret_value().split(","))
        return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
