"""`bbl demo` as a person runs it."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bitbylaw_cli.demonstration import Demo
from bitbylaw_cli.output import Exit
from e2e.commands import bbl

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(500)]

MIB = 1024 * 1024


async def shown(folder: Path, *arguments: str) -> Demo:
    async with bbl(folder, "demo", "--json", *arguments) as demo:
        code = await demo.ended(240)
        printed = demo.printed
    begin = printed.index("\n{") + 1
    assert code == Exit.OK, printed
    return TypeAdapter(Demo).validate_json(printed[begin:])


async def test_the_main_job_is_shown_and_checked_on_the_sample_world(tmp_path: Path) -> None:
    demo = await shown(tmp_path, "--keep")

    assert demo.problems == []
    assert demo.uploads == 7
    by_what = {scene.what: scene for scene in demo.scenes}
    assert by_what["told again"].writes == {}
    assert by_what["moved"].writes["add_to_collection"] == 1
    assert by_what["moved"].writes["remove_from_collection"] == 1
    assert by_what["file changed"].writes["delete_file"] == 1
    assert "upload_file" not in by_what["deleted"].writes
    assert not (tmp_path / ".devstack/stack.json").exists()

    again = await shown(tmp_path, "--keep")

    assert again.kept
    assert again.uploads == 0
    assert again.problems == []


async def test_real_files_arrive_with_the_same_bytes_in_little_memory(tmp_path: Path) -> None:
    # given a folder as lawyers have them
    chance = random.Random(7)
    folder = tmp_path / "akten"
    (folder / "unter").mkdir(parents=True)
    files = {
        "Gutachten.pdf": chance.randbytes(40 * MIB),
        "Schriftsatz.docx": chance.randbytes(MIB),
        "unter/Notiz.txt": b"R\xc3\xbcckruf\n",
        "zu groß.pdf": chance.randbytes(49 * MIB),
        "leer.pdf": b"",
        "Diktat.mp3": chance.randbytes(1_000),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)

    # when they are shown
    demo = await shown(tmp_path, "--documents", str(folder), "--keep")

    # then each is where it belongs, or the CRM says in German why not
    by_name = {line.file: line for line in demo.files}
    assert set(by_name) == set(files)
    assert demo.problems == []
    assert demo.uploads == 3
    for name in ("Gutachten.pdf", "Schriftsatz.docx", "unter/Notiz.txt"):
        assert by_name[name].sha256_equal is True
        assert by_name[name].rules[0].startswith("row 4")
    for name, words in (
        ("zu groß.pdf", "größer als"),
        ("leer.pdf", "leer"),
        ("Diktat.mp3", "Typs"),
    ):
        assert by_name[name].sha256_equal is None
        assert by_name[name].status == "unsupported"
        assert words in by_name[name].reason
    assert {one.service for one in demo.memory} == {"ingest", "document-sync", "advoware-proxy"}
    assert all(one.growth < 24 for one in demo.memory), demo.memory

    # when the same folder comes again, with one file changed
    (folder / "Schriftsatz.docx").write_bytes(b"zweite Fassung")
    again = await shown(tmp_path, "--documents", str(folder), "--keep")

    # then only that one is uploaded
    assert again.problems == []
    assert again.uploads == 1
    known = json.loads((tmp_path / ".devstack/demo/documents.json").read_text("utf-8"))
    assert known["Schriftsatz.docx"]["sha256"] == hashlib.sha256(b"zweite Fassung").hexdigest()


async def test_a_folder_without_files_is_wrong_usage_and_starts_nothing(tmp_path: Path) -> None:
    async with bbl(tmp_path, "demo", "--documents", ".") as demo:
        assert await demo.ended(60) == Exit.USAGE
        assert "holds no file" in demo.printed
    assert not (tmp_path / ".devstack").exists()
