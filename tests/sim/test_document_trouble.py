"""Disorder and trouble: edits, duplicates, deaths and faults by seed; then agreement, then silence."""

import random
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from bitbylaw_common.errors import OutsideError, RateLimited, Transient
from unit.document_sync.fakes import Bench, Died

DOCUMENTS = ("d1", "d2", "d3")
COLLECTIONS = ("akte-1", "akte-2")
CONTENTS = (b"erste", b"zweite", b"dritte Fassung, laenger", b"")


class _Trouble:
    """Faults by seed: lost answers, refusals, deaths, edits in the middle of a run."""

    def __init__(self, bench: Bench, chance: random.Random, rate: float) -> None:
        self.bench = bench
        self.chance = chance
        self.rate = rate

    def __call__(self, moment: str) -> None:
        if self.chance.random() >= self.rate:
            return
        kind = self.chance.choice(("die", "fail", "patience", "edit"))
        when, _, what = moment.partition(" ")
        if kind == "edit":
            self.edit()
        elif kind == "die" or what in ("intent", "base"):
            raise Died(moment)
        elif when == "after":
            raise Transient("xai", what, ambiguous=True)
        elif kind == "patience":
            raise RateLimited("xai", what)
        else:
            raise Transient("xai", what, status=503)

    def edit(self) -> None:
        """Do what people do."""
        crm, chance = self.bench.crm, self.chance
        document = chance.choice(DOCUMENTS)
        row = crm.rows.get(document)
        if row is None:
            if not crm.rows or chance.random() < 0.7:
                links = chance.sample(COLLECTIONS, chance.randint(0, 2))
                crm.add(document, chance.choice(CONTENTS), *links)
            return
        match chance.randint(0, 6):
            case 0 | 1:
                crm.replace_file(document, chance.choice(CONTENTS))
            case 2 | 3:
                row.links = set(chance.sample(COLLECTIONS, chance.randint(0, 2)))
            case 4:
                row.status = "geändert"
                row.version += 1
            case 5 if row.xai_id in self.bench.xai.files and chance.random() < 0.3:
                self._vanish(str(row.xai_id))
            case 6 if chance.random() < 0.4:
                del crm.rows[document]
            case _:
                row.name += "!"
                row.version += 1

    def _vanish(self, file_id: str) -> None:
        del self.bench.xai.files[file_id]
        for members in self.bench.xai.collections.values():
            if file_id in members:
                members.remove(file_id)


async def _one_event(bench: Bench, document: str) -> None:
    try:
        await bench.run(document)
    except (Died, OutsideError) as ended:
        if isinstance(ended, Died):
            bench.restart()


def _wanted(bench: Bench, collection: str) -> set[bytes]:
    return {
        content
        for key, row in bench.crm.rows.items()
        if collection in row.links and (content := bench.crm.content_of(key))
    }


def _stale_versions(bench: Bench) -> set[bytes]:
    """Return what stays on purpose: the earlier version of a document whose file is empty now."""
    return {
        bench.xai.files[row.xai_id].content
        for key, row in bench.crm.rows.items()
        if row.links and not bench.crm.content_of(key) and row.xai_id in bench.xai.files
    }


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32), rate=st.sampled_from((0.0, 0.05, 0.25)))
async def test_whatever_happens_both_sides_agree_and_then_nothing_is_written(
    seed: int, rate: float
) -> None:
    chance = random.Random(seed)
    bench = Bench(delete_files=chance.random() < 0.5)
    bench.xai.add_collection(*COLLECTIONS)
    bench.xai.visible_after = timedelta(seconds=chance.choice((0, 60)))
    trouble = _Trouble(bench, chance, rate)
    bench.moments.trouble = trouble
    for _ in range(chance.randint(5, 40)):
        trouble.edit()
        for _ in range(chance.choice((0, 1, 1, 2))):
            await _one_event(bench, chance.choice(DOCUMENTS))
        bench.advance(timedelta(seconds=chance.choice((0, 1, 30, 200))))

    # when the trouble ends, each is looked at until nothing more waits (twice, because a file
    # that one of them deletes may be a shared one)
    bench.moments.trouble = None
    bench.restart()
    for document in chance.sample(DOCUMENTS * 2, 2 * len(DOCUMENTS)):
        await bench.settle(document)
    for document in DOCUMENTS:
        await bench.settle(document)

    # then the collections hold what the records want, and nothing else
    for collection in COLLECTIONS:
        # (as sets: two records with the same name and bytes may end up with one file, when both
        # lost an upload's answer before EspoCRM knew whose it was)
        held, wanted = set(bench.xai.contents(collection)), _wanted(bench, collection)
        assert wanted <= held, (seed, collection)
        assert held - wanted <= _stale_versions(bench), (seed, collection)
    for key, row in bench.crm.rows.items():
        if row.links and bench.crm.content_of(key):
            assert row.xai_id in bench.xai.files, seed
            assert set(row.collections) == row.links, seed
            assert row.status not in ("neu", "geändert"), seed

    # and every further event is answered with silence
    effects, bases = bench.effects(), bench.base_writes
    for document in DOCUMENTS:
        await bench.run(document)
    assert (bench.effects(), bench.base_writes) == (effects, bases), seed
