import importlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

import bitbylaw_common
from bitbylaw_common.errors import SettingsError
from bitbylaw_common.settings import (
    CATALOGUE,
    ENV,
    PREFIXES,
    AdvowareSettings,
    DigestSettings,
    EnvModel,
    EspoSettings,
    KafkaSettings,
    RedisSettings,
    RuntimeSettings,
    WebhookSettings,
    XaiSettings,
    differences,
    is_loopback,
    misspelt,
    secret_values,
)

ESPO = {"ESPOCRM_API_BASE_URL": "https://crm.example.org/api/v1", "ESPOCRM_API_KEY": "espo-key-1"}
XAI = {"XAI_API_KEY": "xai-1", "XAI_MANAGEMENT_KEY": "xai-token-1"}
ANYWHERE = "0.0.0.0"  # noqa: S104 - judged here, not bound
ROOT = Path(bitbylaw_common.__file__).parents[4]


class Whole(EnvModel):
    espocrm: EspoSettings
    xai: XaiSettings
    runtime: RuntimeSettings


def refusal(model: type[EnvModel], env: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        model.from_env(env)
    return str(refused.value)


# -- reading --------------------------------------------------------------------------------------


def test_the_seed_s_names_are_read_into_types() -> None:
    read = Whole.from_env(
        {**ESPO, **XAI, "ESPOCRM_API_TIMEOUT_SECONDS": "12.5", "HTTP_PORT": "0", "PATH": "/bin"}
    )

    assert read.espocrm.base_url == "https://crm.example.org/api/v1"
    assert read.espocrm.api_key.get_secret_value() == "espo-key-1"
    assert read.espocrm.timeout_seconds == 12.5
    assert read.runtime.http_port == 0
    assert read.xai.management_url == "https://management-api.x.ai"


def test_what_is_blank_counts_as_not_set() -> None:
    read = RuntimeSettings.from_env(
        {"HTTP_PORT": " ", "BBL_INSTANCE": "", "LOG_LEVEL": " INFO\r\n"}
    )

    assert (read.http_port, read.instance, read.log_level) == (3111, None, "info")


def test_all_problems_come_at_once_each_with_name_reason_and_remedy() -> None:
    text = refusal(
        Whole,
        {"ESPOCRM_API_BASE_URL": "crm", "XAI_API_KY": "x", "HTTP_PORT": "70000", **XAI},
    )

    assert text.startswith("4 settings do not fit:")
    assert "XAI_API_KY is no name that anything reads: rename it to XAI_API_KEY" in text
    assert "ESPOCRM_API_BASE_URL='crm' does not fit: must be a URL" in text
    assert "ESPOCRM_API_KEY is missing: set it in the service's environment" in text
    assert "ESPOCRM_API_KEY_FILE" in text
    assert "HTTP_PORT='70000' does not fit: input should be less than or equal to 65535" in text
    assert "default: 3111" in text
    assert "bbl env" in text


def test_a_missing_name_is_told_the_like_that_is_set_even_with_a_wrong_beginning() -> None:
    text = refusal(EspoSettings, {**ESPO, "ESPOCRM_API_KEY": "", "EPSOCRM_API_KEY": "x"})

    assert "ESPOCRM_API_KEY is missing" in text
    assert "EPSOCRM_API_KEY is set, was that meant?" in text


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (DigestSettings, "BBL_DIGEST_KEY", "s3cret-short"),
        (RuntimeSettings, "BBL_CONTROL_KEY", "s3cret-short"),
        (RedisSettings, "REDIS_URL", "http://u:s3cret-short@h"),
        (WebhookSettings, "ESPOCRM_WEBHOOK_SECRETS", "s3cret-short"),
        (WebhookSettings, "ESPOCRM_WEBHOOK_SECRETS", "a=s3cret-short,a=s3cret-short"),
        (WebhookSettings, "ESPOCRM_WEBHOOK_SECRETS", "a=s3cret-short|2|3"),
        (WebhookSettings, "ESPOCRM_WEBHOOK_SECRETS", "a=s3cret-short|"),
    ],
)
def test_a_secret_that_does_not_fit_is_named_but_never_shown(
    model: type[EnvModel], name: str, value: str
) -> None:
    text = refusal(model, {name: value})

    assert name in text
    assert "s3cret" not in text


def test_the_error_carries_no_secret_in_what_it_came_from() -> None:
    with pytest.raises(SettingsError) as refused:
        DigestSettings.from_env({"BBL_DIGEST_KEY": "s3cret-short"})

    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert "s3cret" not in repr(refused.value.__context__)


def test_an_older_name_stands_in_and_the_first_counts() -> None:
    older = EspoSettings.from_env({**ESPO, "ESPOCRM_API_KEY": "", "ESPOCRM_MARVIN_API_KEY": "old"})
    both = EspoSettings.from_env({**ESPO, "ESPOCRM_MARVIN_API_KEY": "old"})

    assert older.api_key.get_secret_value() == "old"
    assert both.api_key.get_secret_value() == "espo-key-1"


def test_settings_can_be_given_by_their_own_names_and_do_not_change() -> None:
    given = EspoSettings(base_url="http://127.0.0.1:1/api/v1/", api_key=SecretStr("k"))

    assert given.base_url == "http://127.0.0.1:1/api/v1"
    with pytest.raises(ValueError, match="frozen"):
        given.base_url = "x"  # type: ignore[misc]  # what is tried here must not work


# -- secrets in files -----------------------------------------------------------------------------


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")

    read = XaiSettings.from_env({"XAI_API_KEY_FILE": str(file), "XAI_MANAGEMENT_KEY": "m"})

    assert read.api_key.get_secret_value() == "from-a-file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 70_000, "larger than 64 KiB"),
    ],
)
def test_a_secret_s_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    text = refusal(XaiSettings, {"XAI_API_KEY_FILE": str(file), "XAI_MANAGEMENT_KEY": "m"})

    assert f"XAI_API_KEY_FILE names {file}, which cannot be used ({reason}" in text
    assert text.startswith("1 setting does")


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")

    text = refusal(XaiSettings, {**XAI, "XAI_API_KEY_FILE": str(file)})

    assert "XAI_API_KEY and XAI_API_KEY_FILE are both set: remove one of them" in text


def test_only_secrets_have_files() -> None:
    assert [problem.name for problem in misspelt({"HTTP_PORT_FILE": "/x"})] == ["HTTP_PORT_FILE"]


def test_all_secrets_of_an_environment_are_known_whole_and_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file")
    env = {
        "XAI_API_KEY_FILE": str(file),
        "ESPOCRM_WEBHOOK_SECRETS": "hook-1=first-secret|second-secret",
        "REDIS_URL": "redis://me:p%40ssword@h:1/0",
        "REDIS_PASSWORD_FILE": "/does/not/exist",
        "KAFKA_BOOTSTRAP_SERVERS": "broker-1:9092",
        "BBL_CONTROL_KEY": "kurz",
    }

    found = secret_values(env)

    assert {"from-a-file", "first-secret", "second-secret", "p%40ssword", "p@ssword"} <= found
    assert not {"broker-1:9092", "hook-1"} & found  # no secrets
    assert "kurz" not in found  # too short to look for: it would hide innocent words


# -- misspelt names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ESPOCRM_APIKEY", "ESPOCRM_API_KEY"),
        ("XAI_MANAGMENT_KEY", "XAI_MANAGEMENT_KEY"),
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("BBL_CONTROLKEY_FILE", "BBL_CONTROL_KEY_FILE"),
        ("ADVOWARE_API_SECRETS", "ADVOWARE_API_SECRET"),
        ("INGEST_UNSINGED", "INGEST_UNSIGNED"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    text = refusal(RuntimeSettings, {name: "x"})

    assert f"{name} is no name that anything reads: rename it to {near}" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("KAFKA_SERVICE_PORT", "9092"),
        ("KAFKA_SERVICE_PORT_TCP_CLIENTS", "9092"),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
        ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ("INGEST_PORT_3111_TCP_PROTO", "tcp"),
        ("HTTP_PROXY", "http://proxy:3128"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("PYTHONPATH", "/x"),
        ("ESPOCRM", "x"),
    ],
)
def test_what_others_set_is_left_alone(name: str, value: str) -> None:
    assert RuntimeSettings.from_env({name: value}) == RuntimeSettings()


def test_a_port_that_the_cluster_injects_for_a_service_named_redis_is_not_ours() -> None:
    read = RedisSettings.from_env({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.1:6379"})

    assert read.port == 6379


# -- the catalogue --------------------------------------------------------------------------------


def test_names_are_unique_in_the_catalogue_and_every_prefix_has_one() -> None:
    assert len(CATALOGUE) == len(ENV)
    for prefix in PREFIXES:
        assert any(row.name.startswith(prefix) for row in ENV), prefix
    for row in ENV:
        assert row.name.startswith(PREFIXES) or row.name == "CONCURRENCY", row.name
        assert row.description, row.name
        assert not (row.secret and row.default), row.name


def test_the_seed_s_names_are_in_the_catalogue() -> None:
    seed = """ESPOCRM_API_BASE_URL ESPOCRM_API_KEY ESPOCRM_API_TIMEOUT_SECONDS
        ESPOCRM_METADATA_TTL_SECONDS ADVOWARE_API_BASE_URL ADVOWARE_API_KEY ADVOWARE_API_SECRET
        XAI_API_KEY XAI_MANAGEMENT_KEY REDIS_HOST REDIS_PORT REDIS_DB_ADVOWARE_CACHE"""

    assert set(seed.split()) <= CATALOGUE.keys()


def models() -> Iterator[type[EnvModel]]:
    """Every settings model: the shared ones and each service's."""
    own = sorted((ROOT / "services").glob("*/src/*/settings.py"))
    for package in ("bitbylaw_common", *(path.parent.name for path in own)):
        module = importlib.import_module(f"{package}.settings")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, EnvModel) and value is not EnvModel:
                yield value


def test_every_settings_model_agrees_with_the_catalogue() -> None:
    found = set(models())

    assert len(found) >= 7
    assert [line for model in found for line in differences(model)] == []


def test_a_model_that_disagrees_with_the_catalogue_is_told_where() -> None:
    class Odd(EnvModel):
        nowhere: str = "x"
        unknown: str = Field("x", validation_alias="BBL_UNKNOWN")
        shown: str | None = Field(None, validation_alias="XAI_API_KEY")
        hidden: SecretStr | None = Field(None, validation_alias="HTTP_HOST")
        other: Annotated[int, Field(ge=0)] = Field(1, validation_alias="HTTP_PORT")
        runtime: RuntimeSettings

    assert differences(Odd) == (
        "Odd.nowhere has no alias, so no environment could set it",
        "Odd.unknown reads BBL_UNKNOWN, which is not in the catalogue (settings.ENV)",
        "Odd.shown and the catalogue disagree whether XAI_API_KEY is a secret",
        "Odd.hidden and the catalogue disagree whether HTTP_HOST is a secret",
        "Odd.hidden defaults to None, HTTP_HOST in the catalogue to '127.0.0.1'",
        "Odd.other defaults to 1, HTTP_PORT in the catalogue to '3111'",
    )


# -- Advoware -------------------------------------------------------------------------------------

ADVOWARE = {
    "ADVOWARE_APP_ID": "app-123",
    "ADVOWARE_API_KEY": "dGVzdC1zZWNyZXQta2V5",
    "ADVOWARE_KANZLEI": "kanzlei-7",
    "ADVOWARE_DATABASE": "muster",
    "ADVOWARE_USER": "SB",
    "ADVOWARE_PASSWORD": "kennwort",
}


def test_advoware_s_names_are_read_with_the_values_of_every_third_party() -> None:
    read = AdvowareSettings.from_env(ADVOWARE)

    assert (read.product_id, read.role, read.token_lifetime_minutes) == (64, 2, 55)
    assert (read.timeout_seconds, read.concurrency, read.rate_per_second) == (30, 5, None)
    assert read.path_prefix == "api/v1/advonet/"
    assert read.base_url is None


def test_the_seed_s_name_of_the_signing_key_is_read_too() -> None:
    env = {"ADVOWARE_API_SECRET": "b3RoZXIta2V5"} | {
        name: value for name, value in ADVOWARE.items() if name != "ADVOWARE_API_KEY"
    }
    assert AdvowareSettings.from_env(env).api_key.get_secret_value() == "b3RoZXIta2V5"


@pytest.mark.parametrize("key", ["your-key!", "YWJ", "===="])
def test_a_key_of_advoware_that_is_no_base64_is_refused_and_not_shown(key: str) -> None:
    text = refusal(AdvowareSettings, ADVOWARE | {"ADVOWARE_API_KEY": key})
    assert "must be base64" in text
    assert key not in text


@pytest.mark.parametrize(
    ("given", "read"), [("/api/v1", "api/v1/"), ("api/v1/advonet/", "api/v1/advonet/")]
)
def test_the_prefix_of_paths_is_read_with_any_slashes(given: str, read: str) -> None:
    found = AdvowareSettings.from_env(ADVOWARE | {"ADVOWARE_PATH_PREFIX": given})
    assert found.path_prefix == read


@pytest.mark.parametrize("prefix", ["..", "api//v1", "https://evil.test", "a/../b", "a b"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    text = refusal(AdvowareSettings, ADVOWARE | {"ADVOWARE_PATH_PREFIX": prefix})
    assert "ADVOWARE_PATH_PREFIX" in text


def test_without_the_configurator_an_address_must_be_given() -> None:
    off = ADVOWARE | {"ADVOWARE_CONFIGURATOR_URL": "off"}
    assert "ADVOWARE_API_BASE_URL" in refusal(AdvowareSettings, off)
    found = AdvowareSettings.from_env(off | {"ADVOWARE_API_BASE_URL": "https://a.test"})
    assert found.base_url == "https://a.test"


# -- Kafka ----------------------------------------------------------------------------------------


def test_kafka_without_anything_else_is_plain() -> None:
    read = KafkaSettings.from_env({"KAFKA_BOOTSTRAP_SERVERS": "a:9092, b:9092"})

    assert read.client_options() == {
        "bootstrap_servers": "a:9092,b:9092",
        "security_protocol": "PLAINTEXT",
    }


def test_kafka_logs_in_over_tls() -> None:
    options = KafkaSettings.from_env(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "a:9093",
            "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "KAFKA_SASL_USERNAME": "ingest",
            "KAFKA_SASL_PASSWORD": "pw",
        }
    ).client_options()

    context = options.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert options == {
        "bootstrap_servers": "a:9093",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ingest",
        "sasl_plain_password": "pw",
    }


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "needs KAFKA_SASL_USERNAME and"),
        ({"KAFKA_SASL_USERNAME": "u"}, "would not use it: set SASL_SSL"),
        ({"KAFKA_TLS_CERT_FILE": __file__}, "KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE go"),
        ({"KAFKA_TLS_CA_FILE": __file__}, "would not use it: set SSL or SASL_SSL"),
        ({"KAFKA_TLS_CA_FILE": "/does/not/exist"}, "must name a file that this process may read"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "kafka"}, "must be host:port"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "http://kafka:9092"}, "must be host:port"),
    ],
)
def test_kafka_settings_that_cannot_work_are_refused(env: dict[str, str], says: str) -> None:
    text = refusal(KafkaSettings, {"KAFKA_BOOTSTRAP_SERVERS": "a:1", **env})

    assert says in text
    assert text.startswith("1 setting does")


def test_a_certificate_file_that_holds_none_is_refused_without_asking_for_a_password() -> None:
    read = KafkaSettings.from_env(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "a:1",
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_TLS_CERT_FILE": __file__,
            "KAFKA_TLS_KEY_FILE": __file__,
        }
    )

    with pytest.raises(SettingsError, match="each must be a PEM file"):
        read.client_options()


# -- Redis ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "redis://localhost:6379/1"),
        ({"REDIS_PASSWORD": "p@:/ü"}, "redis://:p%40%3A%2F%C3%BC@localhost:6379/1"),
        (
            {
                "REDIS_HOST": "::1",
                "REDIS_USERNAME": "u",
                "REDIS_PASSWORD": "p",
                "REDIS_TLS": "true",
            },
            "rediss://u:p@[::1]:6379/1",
        ),
        ({"REDIS_URL": "redis://:p@h:7"}, "redis://:p@h:7/1"),
        ({"REDIS_URL": "rediss://h/5?a=b", "REDIS_HOST": "other"}, "rediss://h/5?a=b"),
    ],
)
def test_redis_is_one_url_whatever_it_was_given_as(env: dict[str, str], url: str) -> None:
    assert RedisSettings.from_env(env).connection_url(1).get_secret_value() == url


# -- who may post webhooks ------------------------------------------------------------------------


def test_webhook_secrets_are_read_by_webhook_with_two_while_one_is_exchanged() -> None:
    read = WebhookSettings.from_env({"ESPOCRM_WEBHOOK_SECRETS": "a1=s1|s2, b2 = s3==,"[:-1]})

    assert {
        webhook_id: [secret.get_secret_value() for secret in secrets]
        for webhook_id, secrets in read.secrets.items()
    } == {"a1": ["s1", "s2"], "b2": ["s3=="]}


@pytest.mark.parametrize(
    ("secrets", "unsigned", "host", "accepts"),
    [
        ("", "", "127.0.0.1", True),
        ("", "accept", ANYWHERE, True),
        ("", "reject", "127.0.0.1", False),
        ("a=s", "", ANYWHERE, False),
        ("a=s", "reject", "127.0.0.1", False),
        ("a=s", "accept", "127.0.0.1", None),
        ("", "", ANYWHERE, None),
    ],
)  # fmt: skip
def test_unsigned_webhooks_are_taken_by_one_rule(
    secrets: str, unsigned: str, host: str, accepts: bool | None
) -> None:
    read = WebhookSettings.from_env(
        {"ESPOCRM_WEBHOOK_SECRETS": secrets, "INGEST_UNSIGNED": unsigned}
    )

    if accepts is None:
        with pytest.raises(SettingsError, match="INGEST_UNSIGNED=accept"):
            read.accepts_unsigned(host)
    else:
        assert read.accepts_unsigned(host) is accepts


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        (ANYWHERE, False),
        ("::", False),
        ("192.168.67.233", False),
        ("ingest.example.org", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert RuntimeSettings(http_host=host).loopback is loopback
