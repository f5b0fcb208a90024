"""The death matrix of the document sync: killed before or after every write, then run again."""

from collections.abc import Callable

import pytest

from unit.document_sync.fakes import Bench, Died

Story = Callable[[Bench], None]


def _new(bench: Bench) -> None:
    bench.crm.add("d1", b"erste", "akte-1", "akte-2")


def _other_bytes(bench: Bench) -> None:
    bench.crm.replace_file("d1", b"zweite")


def _other_bytes_elsewhere(bench: Bench) -> None:
    bench.crm.replace_file("d1", b"zweite")
    bench.crm.rows["d1"].links = {"akte-2", "akte-3"}


def _moved(bench: Bench) -> None:
    bench.crm.rows["d1"].links = {"akte-2", "akte-3"}


def _unlinked(bench: Bench) -> None:
    bench.crm.rows["d1"].links = set()


def _deleted(bench: Bench) -> None:
    del bench.crm.rows["d1"]


def _same_bytes(bench: Bench) -> None:
    bench.crm.replace_file("d1", b"erste")


def _file_vanished(bench: Bench) -> None:
    bench.xai.files.clear()
    for members in bench.xai.collections.values():
        members.clear()


def _not_fit(bench: Bench) -> None:
    bench.crm.replace_file("d1", b"MZ", name="Klage.exe")


def _wrong_hash(bench: Bench) -> None:
    bench.crm.replace_file("d1", b"zweite")
    bench.crm.rows["d1"].md5 = "0" * 32


STORIES: dict[str, tuple[Story, ...]] = {
    "a new document": (_new,),
    "other bytes": (_new, _other_bytes),
    "other bytes elsewhere": (_new, _other_bytes_elsewhere),
    "moved to another collection": (_new, _moved),
    "unlinked from all": (_new, _unlinked),
    "deleted": (_new, _deleted),
    "the same bytes again": (_new, _same_bytes),
    "the file vanished at xAI": (_new, _file_vanished),
    "a successor that is not fit": (_new, _not_fit),
    "a hash that is wrong": (_new, _wrong_hash),
}


def _bench(delete_files: bool) -> Bench:
    bench = Bench(delete_files=delete_files)
    bench.xai.add_collection("akte-1", "akte-2", "akte-3")
    return bench


async def _told(bench: Bench, story: tuple[Story, ...]) -> None:
    """Settle all but the last chapter; open the last one."""
    for chapter in story[:-1]:
        chapter(bench)
        await bench.settle("d1")
    story[-1](bench)
    bench.moments.names.clear()


async def _undisturbed(story: tuple[Story, ...], delete_files: bool) -> Bench:
    bench = _bench(delete_files)
    await _told(bench, story)
    await bench.settle("d1")
    return bench


@pytest.mark.parametrize("delete_files", [False, True], ids=["keep", "delete"])
@pytest.mark.parametrize("name", STORIES)
async def test_a_death_at_any_moment_changes_nothing_in_the_end(
    name: str, delete_files: bool
) -> None:
    story = STORIES[name]
    whole = await _undisturbed(story, delete_files)
    moments = list(whole.moments.names)
    assert moments, "nothing was written, so nothing was tried"
    for fatal, moment in enumerate(moments):
        bench = _bench(delete_files)
        await _told(bench, story)
        bench.moments.fatal = fatal
        with pytest.raises(Died):
            await bench.settle("d1")
        bench.restart()
        await bench.settle("d1")
        assert bench.world() == whole.world(), moment
        assert bench.xai.uploads == whole.xai.uploads, moment
        effects = bench.effects()
        await bench.run("d1")
        assert bench.effects() == effects, moment


@pytest.mark.parametrize("name", STORIES)
async def test_two_deaths_in_a_row_change_nothing_either(name: str) -> None:
    story = STORIES[name]
    whole = await _undisturbed(story, delete_files=False)
    moments = len(whole.moments.names)
    for first in range(moments):
        for second in range(moments):
            bench = _bench(delete_files=False)
            await _told(bench, story)
            for fatal in (first, second):
                bench.moments.names.clear()
                bench.moments.fatal = fatal
                try:
                    await bench.settle("d1")
                except Died:
                    bench.restart()
            bench.restart()
            await bench.settle("d1")
            assert bench.world() == whole.world(), (first, second)
            assert bench.xai.uploads == whole.xai.uploads, (first, second)


@pytest.mark.parametrize("name", STORIES)
async def test_a_record_deleted_after_a_death_leaves_no_trace_in_any_collection(
    name: str,
) -> None:
    story = STORIES[name]
    moments = len((await _undisturbed(story, delete_files=False)).moments.names)
    for fatal in range(moments):
        bench = _bench(delete_files=False)
        await _told(bench, story)
        bench.moments.fatal = fatal
        with pytest.raises(Died):
            await bench.settle("d1")
        bench.restart()
        bench.crm.rows.pop("d1", None)
        await bench.settle("d1")
        assert [bench.xai.contents(c) for c in bench.xai.collections] == [[], [], []], fatal
        assert bench.bases == {}
