"""Worlds made by a seed: people, faults, crashes, repetitions; and a ledger that judges the end.

The ledger knows what people did, because it keeps its own record of it, and what the simulators
logged and hold. It asks nothing of ours what should be: no planner, no rule of the product.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_simulators.espocrm import EspoQuirks
from bitbylaw_simulators.xai import XaiQuirks
from world import World

SERVICE = "document-sync"
WRITES = ("upload", "add_to", "remove_from", "delete_file", "update_entity")
SHARED = (b"Vollmacht, gemeinsam", b"Anlage, gemeinsam")
"""Contents that several documents may have; all others are one document's own."""


class Died(BaseException):
    """The process was killed here."""


@dataclass
class Paper:
    """A document as people left it.

    Attributes:
        content: its file's bytes; None: it carries no file; empty: not fit to upload.
        links: the collections that it is to be in.
        deleted: people deleted the record.
    """

    content: bytes | None
    links: set[str]
    deleted: bool = False

    @property
    def wanted(self) -> bool:
        """Whether xAI is to hold it."""
        return bool(self.content and self.links) and not self.deleted


@dataclass
class Ledger:
    """What people did, and how many uploads that may cost at most.

    An upload is owed whenever a document's bytes come to be wanted: it got them, or it was
    unlinked or deleted with them and came back, or the file was taken away at xAI.
    """

    papers: dict[str, Paper] = field(default_factory=dict)
    owed: Counter[bytes] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)

    def did(self, words: str) -> None:
        self.story.append(words)

    def change(self, document: str, **after: object) -> None:
        """Note what people did to a document."""
        paper = self.papers[document]
        before = (paper.content, paper.wanted)
        for name, value in after.items():
            setattr(paper, name, value)
        if paper.content and (paper.content != before[0] or paper.wanted != before[1]):
            self.owed[paper.content] += 1


class DocumentWorld:
    """One world: everything that happens in it is chosen by its seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        chance = self.chance
        self.keeps = chance.random() < 0.5
        self.deadly = chance.choice((0.0, 0.01, 0.04))
        self.forgetful = random.Random(f"{seed} forgetful").random() < 0.2
        self.meddling = chance.choice((0.0, 0.0, 0.05))
        self.world = World(
            espocrm=EspoQuirks(
                generation=chance.choice(("seed", "march", "later")),
                optimistic_locking=chance.choice(((), ("CDokumente",))),
            ),
            xai=XaiQuirks(
                double_attach=chance.choice(("200", "409")),
                delete_attached=chance.choice(("vanish", "stay")),
                error_shape=chance.choice(("code", "error")),
                page_size=chance.choice((2, 100)),
            ),
            XAI_FILE_POLICY="keep" if self.keeps else "delete",
        )
        self.ledger = Ledger()
        self.collections: list[str] = []
        self.untold: list[tuple[str, str]] = []
        self.members = [SERVICE]
        self.quiet = False

    async def live(self) -> None:
        """Let it all happen, and judge.

        Raises:
            AssertionError: something does not hold; names the seed and tells the story.
        """
        try:
            await self._live()
        except AssertionError as wrong:
            story = "\n".join(f"    {line}" for line in self.ledger.story)
            raise AssertionError(f"seed {self.seed}: {wrong}\n{story}") from wrong
        except Exception as broken:
            story = "\n".join(f"    {line}" for line in self.ledger.story)
            raise AssertionError(f"seed {self.seed}: {broken!r}\n{story}") from broken

    async def _live(self) -> None:
        await self.world.start()
        self.collections = [self.world.add_collection(f"akte-{n}") for n in range(3)]
        for collection in self.collections:
            self.world.espocrm.add_knowledge(f"Akte {collection[-4:]}", collection)
        self.world.transport.on_moment = self._moment
        self.world.host.log.on_append = self._append
        self.world.host.log.on_stored = self._append
        for _ in range(self.chance.randint(5, 30)):
            await self._something()
        await self._come_to_rest()
        self._agrees()
        await self._is_silent()
        await self.world.stop()

    # What happens -------------------------------------------------------------------------------

    async def _something(self) -> None:
        deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self._person),
            (8, self._tell),
            (3, self._fault),
            (3, self._time),
            (1, self._crash),
            (1, self._replica),
            (1, self._stand_still),
        ]
        weights = [weight for weight, _ in deeds]
        ((_, deed),) = self.chance.choices(deeds, weights)
        await deed()

    async def _person(self) -> None:
        self._edit()

    def _edit(self) -> None:
        chance, papers = self.chance, self.ledger.papers
        living = [name for name, paper in papers.items() if not paper.deleted]
        if not living or (len(living) < 5 and chance.random() < 0.3):
            self._add()
            return
        document = chance.choice(living)
        deeds: dict[Callable[[str], None], float] = {
            self._replace: 6,
            self._link: 4,
            self._unlink: 4,
            self._rename: 1,
            self._touch: 2,
            self._delete: 1,
            self._copy: 1,
            self._vanish: 1,
        }
        chance.choices(list(deeds), list(deeds.values()))[0](document)

    def _content(self, document: str) -> bytes:
        kind = self.chance.random()
        if kind < 0.1:
            return b""
        if kind < 0.25:
            return self.chance.choice(SHARED)
        return f"{document} Fassung {self.chance.randint(1, 3)}".encode() * 5

    def _add(self) -> None:
        crm, papers = self.world.espocrm, self.ledger.papers
        content = self._content(f"Dokument {len(papers)}")
        links = set(self.chance.sample(self.collections, self.chance.randint(0, 3)))
        document = crm.add_document("Klage.pdf", content, collections=sorted(links))
        papers[document] = Paper(None, set())
        self.ledger.change(document, content=content, links=links)
        self._said("create", document, f"new, {content[:24]!r}, in {self._short(links)}")

    def _replace(self, document: str) -> None:
        content = self._content(document)
        self.world.espocrm.replace_file(document, content)
        self.ledger.change(document, content=content)
        self._said("update", document, f"gets {content[-24:]!r}")

    def _link(self, document: str) -> None:
        collection = self.chance.choice(self.collections)
        self.world.espocrm.link(document, collection, silent=self.chance.random() < 0.3)
        links = self.ledger.papers[document].links | {collection}
        self.ledger.change(document, links=links)
        self._said("update", document, f"linked, now in {self._short(links)}")

    def _unlink(self, document: str) -> None:
        links = set(self.ledger.papers[document].links)
        if not links:
            return
        collection = self.chance.choice(sorted(links))
        self.world.espocrm.unlink(document, collection, silent=self.chance.random() < 0.3)
        links.discard(collection)
        self.ledger.change(document, links=links)
        self._said("update", document, f"unlinked, now in {self._short(links)}")

    def _rename(self, document: str) -> None:
        name = f"Klage {self.chance.randint(1, 9)}.pdf"
        self.world.espocrm.edit(document, name=name)
        self._said("update", document, "renamed")

    def _touch(self, document: str) -> None:
        match self.world.espocrm.quirks.generation:
            case "seed":
                self.world.espocrm.edit(document, fileStatus="geändert")
            case "march":
                self.world.espocrm.edit(document, dateiStatus="Geändert")
            case "later":
                self.world.espocrm.edit(document, fileStatus="changed")
        self._said("update", document, "told as changed")

    def _delete(self, document: str) -> None:
        self.world.espocrm.delete(document)
        self.ledger.change(document, deleted=True)
        self._said("delete", document, "deleted")

    def _copy(self, document: str) -> None:
        """Duplicate a record as the CRM does it: with everything that is noted in it, unlinked."""
        crm, paper = self.world.espocrm, self.ledger.papers[document]
        noted = ("xaiId", "xaiCollections", "xaiSyncedHash")
        record = crm.document(document)
        values = {name: record[name] for name in noted if record.get(name)}
        links = set(self.chance.sample(self.collections, self.chance.randint(0, 2)))
        copy = crm.add_document(record["name"], paper.content, collections=sorted(links), **values)
        self.ledger.papers[copy] = Paper(None, set())
        self.ledger.change(copy, content=paper.content, links=links)
        self._said("create", copy, f"copied from {document[-4:]}, in {self._short(links)}")

    def _vanish(self, document: str) -> None:
        """Delete a file in xAI's console, where it is one of ours."""
        xai, crm = self.world.xai, self.world.espocrm
        file = crm.document(document)["xaiId"]
        if file not in {one.id for one in xai.files()}:
            return
        xai.remove_file(file)
        for other, paper in self.ledger.papers.items():
            if not paper.deleted and crm.document(other)["xaiId"] == file and paper.content:
                self.ledger.owed[paper.content] += 1
        self._said("update", document, "its file vanished at xAI")

    def _said(self, action: str, document: str, words: str) -> None:
        self.untold.append((action, document))
        self.ledger.did(f"{document[-4:]} {words}")

    def _short(self, collections: set[str]) -> list[int]:
        return sorted(self.collections.index(one) for one in collections)

    async def _tell(self) -> None:
        """Post some of what EspoCRM has to tell, in any order, some of it twice."""
        self.chance.shuffle(self.untold)
        count = self.chance.randint(0, len(self.untold))
        posts, self.untold = self.untold[:count], self.untold[count:]
        if posts and self.chance.random() < 0.4:
            posts += self.chance.choices(posts, k=self.chance.randint(1, 3))
        if self.ledger.papers and self.chance.random() < 0.2:
            posts.append(("update", self.chance.choice(list(self.ledger.papers))))
        self.ledger.did(f"told {[f'{action} {document[-4:]}' for action, document in posts]}")
        for action, document in posts:
            answer = await self.world.webhook("document", action, document)
            assert answer.status == 200
        await self._going_on(self.world.settle)

    async def _fault(self) -> None:
        side = self.chance.choice((self.world.espocrm, self.world.xai, self.world.xai))
        kinds: tuple[tuple[str, dict[str, Any]], ...] = (
            ("status", {"status": self.chance.choice((500, 502, 503))}),
            ("reset_before", {}),
            ("reset_after", {}),
            ("torn", {"share": 0.5}),
            ("rate_limit", {"retry_after": self.chance.randint(1, 20)}),
            ("latency", {"seconds": self.chance.choice((1, 5))}),
        )
        kind, more = self.chance.choice(kinds)
        after = self.chance.randint(0, 6)
        operation = None
        if side is self.world.xai and self.chance.random() < 0.3:
            operation, after = "upload", 0
            if self.chance.random() < 0.5:
                kind = "delayed_visibility"
                more = {"seconds": self.chance.choice((10, 90, 150)), "answer": "reset"}
        side.faults.plan(kind, operation=operation, after=after, times=1, **more)
        self.ledger.did(f"fault {side.name} {kind} {operation or 'any'} after {after} {more}")

    async def _time(self) -> None:
        seconds = self.chance.choice((1, 30, 200, 1000))
        self.ledger.did(f"{seconds} s pass")
        await self._going_on(lambda: self.world.advance(seconds=seconds))

    async def _crash(self) -> None:
        member = self.chance.choice(self.members)
        self.ledger.did(f"{member} is killed and started again")
        await self._restart(member)

    async def _replica(self) -> None:
        if len(self.members) == 1:
            self.ledger.did("a second replica joins")
            await self._going_on(self._join)
        else:
            member = self.members.pop()
            self.ledger.did(f"{member} is killed for good")
            await self.world.host.crash(member)

    async def _stand_still(self) -> None:
        """Freeze a member for longer than its session, where another can take its work over."""
        if len(self.members) == 1:
            return
        member = self.chance.choice(self.members)
        seconds = self.chance.choice((5, 40))
        self.ledger.did(f"{member} stands still for {seconds} s")
        self.world.host.freeze(member)
        await self._going_on(lambda: self.world.advance(seconds=seconds))
        self.world.host.thaw(member)
        await self._going_on(self.world.settle)

    async def _join(self) -> None:
        self.members.append(await self.world.host.join(SERVICE))

    async def _going_on(self, deed: Callable[[], Awaitable[None]]) -> None:
        """Do it; who dies meanwhile is started again."""
        try:
            await deed()
        except Died as died:
            self.ledger.did(f"died {died}")
            await self._restart(*self.members)

    async def _restart(self, *members: str) -> None:
        """Kill all of them, and only then start them again: who died breaks whoever waits."""
        quiet, self.quiet = self.quiet, True  # a start that dies would only be one more crash
        for member in members:
            await self.world.host.crash(member)
        for member in members:
            await self.world.host.start_again(member, SERVICE, wait=member == members[-1])
        self.quiet = quiet

    def _moment(self, moment: str) -> None:
        if self.quiet:
            return
        if any(write in moment for write in WRITES):
            if self.chance.random() < self.deadly:
                raise Died(moment)
            if self.chance.random() < self.meddling:
                self._edit()

    def _append(self, records: Sequence[Outgoing]) -> None:
        ours = not all(record.topic.startswith("vmh.") for record in records)
        if ours and not self.quiet and self.chance.random() < self.deadly / 2:
            raise Died(f"at {records[0].topic}")

    # How it ends --------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        self.ledger.did("the trouble ends")
        self.quiet = True
        self.world.espocrm.faults.clear()
        self.world.xai.faults.clear()
        await self._restart(*self.members)
        if self.forgetful:
            # What EspoCRM did not tell yet it never tells: the comparisons find it by themselves.
            await self.world.advance(hours=30)
            return
        # What a silent link changed is told by nobody, so each document is told of once more.
        self.untold += [("update", document) for document in self.ledger.papers]
        self.chance.shuffle(self.untold)
        for action, document in self.untold:
            await self.world.webhook("document", action, document)
        await self.world.advance(hours=6)

    def _agrees(self) -> None:
        crm, xai, papers = self.world.espocrm, self.world.xai, self.ledger.papers
        letters = [letter.reason for letter in self.world.host.dead_letters(SERVICE)]
        assert letters == [], letters
        held = {file.id: xai.content(file.id) for file in xai.files()}
        for document, paper in papers.items():
            if not paper.wanted:
                continue
            record = crm.document(document)
            name = document[-4:]
            assert held.get(record["xaiId"]) == paper.content, f"{name} has another file"
            assert set(record["xaiCollections"]) == paper.links, f"{name} notes other collections"
            for collection in paper.links:
                assert record["xaiId"] in xai.file_ids(collection), f"{name} is not attached"
        self._nothing_else(held)
        self._no_upload_too_many()

    def _nothing_else(self, held: dict[str, bytes]) -> None:
        """Check that no collection holds what nobody wants there, and no file is left over."""
        crm, xai = self.world.espocrm, self.world.xai
        allowed: defaultdict[str, set[str]] = defaultdict(set)
        kept: set[str] = set()
        for document, paper in self.ledger.papers.items():
            if paper.deleted:
                continue
            file = crm.document(document)["xaiId"]
            if file is None:
                continue
            kept.add(file)
            # An empty successor is not fit: the earlier version stays where it is wanted.
            for collection in paper.links if paper.content is not None else ():
                allowed[collection].add(file)
        for collection in self.collections:
            extra = set(xai.file_ids(collection)) & set(held) - allowed[collection]
            left = {file: held[file][-24:] for file in extra}
            assert not left, f"{self.collections.index(collection)} still holds {left}"
        if not self.keeps:
            left = {file: held[file][-24:] for file in set(held) - kept}
            assert not left, f"nobody needs {left}"

    def _no_upload_too_many(self) -> None:
        uploads = Counter(effect.content for effect in self.world.xai.effects("upload"))
        for content, owed in self.ledger.owed.items():
            made = uploads.pop(sha256(content).hexdigest(), 0)
            assert made <= owed, f"{content[-24:]!r} was uploaded {made} times, owed {owed}"
        assert not uploads, "something was uploaded that people never made"

    async def _is_silent(self) -> None:
        self.ledger.did("everything is told once more")
        effects = self.world.effects()
        documents = [*self.ledger.papers, *self.ledger.papers]
        self.chance.shuffle(documents)
        for document in documents:
            await self.world.webhook("document", "update", document)
        await self.world.advance(hours=1)
        more = self.world.effects()[len(effects) :]
        assert self.world.effects() == effects, f"it is not silent: {more}"
