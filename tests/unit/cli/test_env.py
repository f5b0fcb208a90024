import json
from pathlib import Path

from pydantic import TypeAdapter
from typer.testing import CliRunner

from bitbylaw_cli.environment_names import Names, example, names_of
from bitbylaw_cli.main import build
from bitbylaw_common.settings import ENV

ROOT = Path(__file__).parents[3]


def test_the_example_file_is_the_generated_one() -> None:
    assert (ROOT / ".env.example").read_text("utf-8") == example(), (
        "write it anew: bbl env --example > .env.example"
    )


def test_the_example_names_each_name_once_and_sets_none() -> None:
    lines = example().splitlines()

    assert all(not line or line.startswith("#") for line in lines)
    for row in ENV:
        assert sum(line.startswith(f"#{row.name}=") for line in lines) == 1


def test_a_secret_is_never_shown() -> None:
    env = {"XAI_API_KEY": "xai-geheim", "ESPOCRM_API_KEY_FILE": "/run/secrets/crm"}

    found = {one.name: one for one in names_of(env, "a test").names}

    assert found["XAI_API_KEY"].value == "***"
    assert found["ESPOCRM_API_KEY"].value == "*** (from the file /run/secrets/crm)"
    assert found["REDIS_URL"].value is None


def test_json_holds_every_name(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KAFKA_BOOTSTRAP_SERVERS=kafka:9092\nXAI_API_KEY=geheim\n", "utf-8")

    told = CliRunner().invoke(build(), ["env", "--env", str(file), "--json"])

    found = TypeAdapter(Names).validate_json(told.output)
    assert told.exit_code == 0
    assert [one.name for one in found.names] == [row.name for row in ENV]
    assert "geheim" not in told.output
    assert json.loads(told.output)["source"] == str(file)


def test_only_what_is_set_of_one_group(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KAFKA_BOOTSTRAP_SERVERS=kafka:9092\nLOG_LEVEL=debug\n", "utf-8")

    told = CliRunner().invoke(build(), ["env", "--env", str(file), "--set", "--group", "kafka"])

    assert "kafka:9092" in told.output
    assert "LOG_LEVEL" not in told.output


def test_a_misspelt_name_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KAFKA_BOOTSTRAP_SERVER=kafka:9092\n", "utf-8")

    told = CliRunner().invoke(build(), ["env", "--env", str(file), "--set"])

    assert told.exit_code == 1
    assert "rename it to KAFKA_BOOTSTRAP_SERVERS" in told.output


def test_a_file_that_is_not_there_ends_with_wrong_usage(tmp_path: Path) -> None:
    told = CliRunner().invoke(build(), ["env", "--env", str(tmp_path / "none")])

    assert told.exit_code == 2
    assert "none" in told.stderr
