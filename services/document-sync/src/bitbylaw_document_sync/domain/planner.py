"""Decides what to do about one document; every decision names its rule (pure).

    row 1         the record is gone: out of every collection
    row 2         no file: nothing to upload; a file that was taken away leaves the collections
    row 3         in no collection, never uploaded: nothing to do
    row 4         new document: upload, attach
    row 5         in line: nothing
    row 6         told as changed, the same bytes: status only
    row 7         other bytes: upload, attach the new file, only then detach the old one
    row 8, row 9  collections added, collections left
    row 10        in no collection any more
    row 11        the file is gone at xAI: upload it again
    row 12        empty, too large or unsupported: not uploaded, and the record says why
    row 13        bytes that are not what the record says (see `executor`): the bytes count
    row 18        a collection is gone at xAI: the others are served
    refused       xAI would not take these bytes before: they are not sent again
    indexing      attached is not searchable: the record says "synced", and the version before
                  leaves, only when xAI is done; what fails is tried again, a few times
    hash differs  xAI tells of other bytes than were sent: they are sent again, once

What a plan needs to know and nobody asked yet comes back as a `Question`. The bytes decide, never
a flag: `fresh` alone uploads nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from bitbylaw_common.outcomes import Rejected, Wait
from bitbylaw_common.sync.digests import NORMALISER, Digester
from bitbylaw_document_sync.domain import texts
from bitbylaw_document_sync.domain.announcing import announced
from bitbylaw_document_sync.domain.filetypes import Unfit, unfit
from bitbylaw_document_sync.domain.model import (
    Absent,
    Action,
    AskCollections,
    AskFile,
    AskSharers,
    AskUploads,
    Attach,
    Clash,
    DeleteFile,
    Detach,
    DocumentBase,
    Entry,
    FileFacts,
    Found,
    Indexing,
    Noted,
    Noting,
    Obstacle,
    Plan,
    Question,
    Retired,
    Sight,
    Upload,
    Uploaded,
    UploadIntent,
    Word,
    WriteBack,
)
from bitbylaw_document_sync.domain.naming import trace
from bitbylaw_document_sync.domain.notices import Kind, Trouble

_VERDICTS = (Word.UNSUPPORTED, Word.FAILED, Word.INDEXING)

_HASH = 64
"""Characters of a hash in hex; what is none of such a length proves nothing."""

INDEXING, HASH_DIFFERS = "indexing", "hash differs"
"""Rules, by their names in the journal."""

UNKNOWN_FATE = "an upload's fate is unknown"

SOONEST_LOOK = timedelta(seconds=2)
LATEST_LOOK = timedelta(minutes=5)
"""How soon, and how late, it is looked again whether xAI is done: after as long as it took so far."""

INDEXING_PAUSES = (timedelta(minutes=5), timedelta(hours=1))
"""How long after which failure xAI is to try again; after the next one nobody tries."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the firm decided.

    Attributes:
        digester: makes the digests of the base.
        settle: how long the fate of an upload without an answer may stay unknown.
        delete_files: the file of a deleted or unlinked document is deleted, not kept.
        indexing: how long xAI may take to make a file searchable.
        notify: the user who is told about a document that is assigned to nobody; None: nobody.
    """

    digester: Digester
    settle: timedelta
    delete_files: bool = False
    indexing: timedelta = timedelta(hours=6)
    notify: str | None = None


def plan(sight: Sight, policy: Policy) -> Plan | Question:
    """Return what to do about the document, or what must be known first.

    The same sight gives the same plan, and a world in which the plan was carried out gives an
    empty one. Nothing is planned beyond an upload: its file id makes a new sight.
    """
    settled = _settled(sight, policy)
    if not isinstance(settled, Sight):
        return settled
    if settled.entry is None:
        answer = _gone(settled, policy)
    else:
        answer = _Case(settled, settled.entry, policy).decision()
    if not isinstance(answer, Plan):
        return answer
    return _announced(_accounted(answer, settled, policy), settled, policy)


def resembles(uploaded: Uploaded, intent: UploadIntent, digester: Digester) -> bool:
    """Say whether a listed file may be what the intended upload became; its bytes decide then."""
    return uploaded.size == intent.size and digester.of(trace(uploaded.name)) == intent.name


def has_content(md5: str, intent: UploadIntent, digester: Digester) -> bool:
    """Say whether bytes with this MD5 are the ones that were to be uploaded."""
    return digester.of(md5) == intent.content


def refusal(
    sight: Sight, policy: Policy, *, status: int | None, words: str, content: str | None = None
) -> Plan:
    """Return what to note in the record after xAI refused the file; the run ends as rejected.

    Args:
        content: keyed digest of the MD5 of the bytes that it refused, which are not sent again;
            None where it refused something else.
    """
    entry, base = sight.entry, sight.base
    word, message = _refused_as(status)
    actions = () if entry is None else _noted(entry, {}, word, message)
    before = base
    if base is not None and content is not None:
        obstacle = Obstacle(kind="refused", content=content, since=sight.now, status=status)
        before = base.model_copy(update={"obstacle": obstacle})
        base = base.model_copy(update={"obstacle": obstacle.model_copy(update={"told": True})})
    ending = Rejected(words, error="Invalid")
    trouble = Trouble(Kind.REFUSED, message)
    reason = "xAI will not take the file as it is"
    refused = Plan("refused", reason, before, actions, base, ending, troubles=(trouble,))
    return _announced(_accounted(refused, sight, policy), sight, policy)


def _refused_as(status: int | None) -> tuple[Word, str]:
    """Return status and message of a record whose file xAI answered with this HTTP status."""
    word = Word.UNSUPPORTED if status in (413, 415) else Word.FAILED
    return word, texts.refused(status)


def gave_up(sight: Sight, policy: Policy, *, attempts: int) -> Plan:
    """Return what to tell people when the last attempt failed; how the run ends is not its word."""
    rule, reason = "gave up", f"attempt {attempts} was the last"
    if sight.entry is None:
        return Plan(rule, reason, sight.base, (), sight.base)
    message = texts.gave_up(attempts)
    noting = _noted(sight.entry, {}, Word.FAILED, message)
    trouble = Trouble(Kind.GAVE_UP, message)
    ended = Plan(rule, reason, sight.base, noting, sight.base, troubles=(trouble,))
    return _announced(_accounted(ended, sight, policy), sight, policy, conclusive=False)


def _announced(
    answer: Plan, sight: Sight, policy: Policy, *, conclusive: bool | None = None
) -> Plan:
    return announced(
        answer, sight, to=policy.notify, key_id=policy.digester.key_id, conclusive=conclusive
    )


# -- an upload of unknown fate --------------------------------------------------------------------


def _settled(sight: Sight, policy: Policy) -> Sight | Plan | Question:
    """Return the sight without a pending upload, or how to find out what became of it."""
    base = sight.base
    intent = base.pending if base is not None else None
    if base is None or intent is None:
        return sight
    if sight.uploads is None:
        return AskUploads(intent, _files_of(sight))
    if sight.uploads:
        adopted = sight.uploads[0]
        found = replace(sight.found, files=sight.found.files | {adopted})
        base = base.with_file(adopted, intent)
        if sight.entry is None:  # nobody ever used it, so it is not kept as other files are
            base = base.retiring(None)
        return replace(sight, base=base, found=found)
    rest = intent.since + policy.settle - sight.now
    if rest > timedelta():
        return Plan(
            "upload's fate unknown",
            "an upload began and no answer came; uploading now could make a twin",
            base,
            (),
            base,
            Wait(UNKNOWN_FATE, rest),
        )
    return replace(sight, base=base.model_copy(update={"pending": None}))


def _files_of(sight: Sight) -> frozenset[str]:
    """Return every file that is or was this document's."""
    files: set[str] = set()
    if sight.base is not None:
        files.update(retired.file_id for retired in sight.base.retired)
        if sight.base.file_id is not None:
            files.add(sight.base.file_id)
    if sight.entry is not None and sight.entry.xai_id is not None:
        files.add(sight.entry.xai_id)
    return frozenset(files)


# -- the record is gone ---------------------------------------------------------------------------


def _gone(sight: Sight, policy: Policy) -> Plan | Question:
    rule, base = "row 1: record gone", sight.base
    if base is None:
        return Plan(rule, "the record is gone, and nothing of it is known")
    leaving = [Detach(file, place) for file, place in sorted(sight.found.attached)]
    ours = {retired.file_id for retired in base.retired if retired.ours}
    if base.file_id is not None and base.ours and policy.delete_files:
        ours.add(base.file_id)
    doomed = sorted(ours & sight.found.files)
    if (leaving or doomed) and sight.sharers is None:
        return AskSharers(tuple(sorted(_files_of(sight))))
    actions: tuple[Action, ...] = (
        *_not_shared(leaving, sight),
        *(DeleteFile(file) for file in doomed if not _shared(file, sight)),
    )
    lent = tuple(
        Retired(file_id=file, ours=file in ours, lent=True)
        for file in sorted(_lent_files(leaving, doomed, sight))
    )
    reason = "the record is gone: its file leaves every collection"
    if not lent:
        return Plan(rule, reason, base, actions, None)
    places = _names(_lent(leaving, sight))
    after = base.retiring(None).model_copy(update={"collections": places, "retired": lent})
    reason = f"{reason} but where another record notes it as well"
    return Plan(rule, reason, base, actions, after)


def _shared(file_id: str, sight: Sight) -> bool:
    return any(sharer.file_id == file_id for sharer in sight.sharers or ())


def _not_shared(detaches: Iterable[Detach], sight: Sight) -> list[Detach]:
    """Leave out what another record with the same file still needs."""
    used = {
        (sharer.file_id, place) for sharer in sight.sharers or () for place in sharer.collections
    }
    return [detach for detach in detaches if (detach.file_id, detach.collection) not in used]


def _staying(detaches: Iterable[Detach], sight: Sight) -> list[Detach]:
    asked = list(detaches)
    gone = _not_shared(asked, sight)
    return [detach for detach in asked if detach not in gone]


def _lent(detaches: Iterable[Detach], sight: Sight) -> set[str]:
    """Return where a file stays for another record's sake; it is looked for there again.

    Two records with one file may leave a collection at the same time, and each sees the other.
    """
    return {detach.collection for detach in _staying(detaches, sight)}


def _lent_files(detaches: Iterable[Detach], doomed: Iterable[str], sight: Sight) -> set[str]:
    """Return the files that stay for another record's sake, in a collection or at all."""
    shared = {file for file in doomed if _shared(file, sight)}
    return shared | {detach.file_id for detach in _staying(detaches, sight)}


# -- the record is there --------------------------------------------------------------------------


class _Case:
    """One document with a record: the rows that need both sides."""

    def __init__(self, sight: Sight, entry: Entry, policy: Policy) -> None:
        self.sight = sight
        self.entry = entry
        self.policy = policy
        self.found: Found = sight.found
        self.files = _files_of(sight)
        facts = sight.file
        self.facts = facts if facts and facts.attachment_id == entry.attachment_id else None
        read = self.facts.md5 if isinstance(self.facts, FileFacts) else None
        self.md5 = read or entry.md5

    def decision(self) -> Plan | Question:
        entry = self.entry
        if entry.attachment_id is None:
            if self.files:
                return self._unwanted("row 2: file taken away", "the record carries no file now")
            return self._without_file("the record carries no file")
        if not entry.wanted:
            if self.files:
                return self._unwanted("row 10: unlinked", "no active collection wants it")
            return self._plan(
                "row 3: not wanted",
                "no active collection wants it, and it was never uploaded",
                _noted(entry, {}, self._word(Word.UNWANTED), None),
                self.sight.base,
            )
        known = self._current()
        if known is not None and not isinstance(known, str):
            return known
        if self._unasked():
            return AskCollections(tuple(sorted(self.entry.wanted)))
        return self._upload() if known is None else self._aligned(known)

    # Which file ------------------------------------------------------------------------------

    def _current(self) -> str | Question | None:
        """Return the file at xAI that has the record's bytes; None: there is none."""
        entry, base = self.entry, self.sight.base
        alive = self.files & self.found.files
        if not alive:
            return None
        if base is not None and base.file_id in alive and self._unchanged_since(base):
            return base.file_id
        if self.md5 is None:
            if isinstance(self.facts, Absent):
                return None
            return AskFile(self._attachment, hashed=True)
        trusted = base is None or base.file_id != entry.xai_id or not self._knows_content(base)
        if trusted and entry.xai_id in alive and entry.synced_as(self.md5):
            return entry.xai_id
        return None

    def _knows_content(self, base: DocumentBase) -> bool:
        return base.content is not None and base.comparable(self.policy.digester.key_id)

    def _unchanged_since(self, base: DocumentBase) -> bool:
        """Say whether the record's bytes are the ones of the base.

        They are when the digests agree. They are too when the attachment is the same and the
        record still names the MD5 it named then, though it may never have been the right one.
        """
        if not self._knows_content(base):
            return False
        if self.md5 is not None and self.policy.digester.of(self.md5) == base.content:
            return True
        same_word = self.entry.md5 is None or self._digest(self.entry.md5) == base.recorded
        return base.attachment_id == self.entry.attachment_id and same_word

    @property
    def _attachment(self) -> str:
        return self.entry.attachment_id or ""

    def _digest(self, value: str | None) -> str | None:
        return None if value is None else self.policy.digester.of(value)

    def _unasked(self) -> bool:
        """Say whether something would be attached without knowing that the collection is there."""
        attached = {place for file in self.files for place in self.found.collections_of(file)}
        return self.sight.existing is None and bool(self.entry.wanted - attached)

    @property
    def _missing(self) -> frozenset[str]:
        """The wanted collections that xAI does not have."""
        if self.sight.existing is None:
            return frozenset()
        attached = {place for _, place in self.found.attached}
        return self.entry.wanted - self.sight.existing - attached

    # What to do ------------------------------------------------------------------------------

    def _without_file(self, why: str) -> Plan:
        word = self._word(Word.FAILED)
        message = texts.NO_FILE if word is not None else self.entry.message
        return self._plan(
            "row 2: no file",
            why,
            _noted(self.entry, {}, word, message),
            self.sight.base,
            troubles=() if word is None else (Trouble(Kind.NO_FILE, texts.NO_FILE),),
        )

    def _upload(self, obstacle: Obstacle | None = None) -> Plan | Question:
        if isinstance(self.facts, Absent):
            if self.files & self.found.files:
                return self._kept_as_it_is(texts.NO_FILE, Word.FAILED, "row 2: no file")
            return self._without_file("the record names a file that EspoCRM does not have")
        if self.facts is None:
            return AskFile(self._attachment, hashed=False)
        why = unfit(self.facts.name, self.facts.mime, self.facts.size)
        if why is not None:
            return self._not_uploaded(why)
        if self.md5 is None or self.facts.size is None:
            return AskFile(self._attachment, hashed=True)
        if self._missing == self.entry.wanted:
            return self._nowhere_to_put()
        if obstacle is None and (refused := self._refused()) is not None:
            return self._as_refused(refused)
        intent = UploadIntent(
            since=self.sight.now,
            attachment_id=self._attachment,
            name=self.policy.digester.of(trace(self.facts.name)),
            content=self.policy.digester.of(self.md5),
            recorded=self._digest(self.entry.md5),
            size=self.facts.size,
            run_id=self.sight.run_id,
        )
        rule, reason = self._why_upload()
        base = self._base()
        before = base.model_copy(
            update={
                "pending": intent,
                "collections": _names(base.collections, self.entry.wanted - self._missing),
                "obstacle": obstacle,
            }
        )
        upload = Upload(
            self._attachment,
            self.facts.name,
            self.facts.mime,
            self.facts.size,
            self.md5,
            intent,
        )
        if obstacle is not None:
            rule, reason = HASH_DIFFERS, "xAI reports the hash of other bytes: sent again, once"
        return Plan(rule, reason, before, (upload,), before, more=True)

    def _refused(self) -> Obstacle | None:
        """Return xAI's refusal of these very bytes; None once a person asks to try them again."""
        obstacle = self._obstacle("refused")
        if obstacle is None:
            return None
        word, _ = _refused_as(obstacle.status)
        return None if self._asked_again(obstacle, word) else obstacle

    def _obstacle(self, kind: str) -> Obstacle | None:
        """Return what xAI could not do with the record's bytes, where it is of that kind."""
        base = self.sight.base
        found = base.obstacle if base is not None else None
        if base is None or found is None or found.kind != kind:
            return None
        same = base.comparable(self.policy.digester.key_id) and found.content == (
            self._digest(self.md5) or base.content
        )
        return found if same else None

    def _as_refused(self, obstacle: Obstacle) -> Plan | Question:
        """Leave everything as it is: xAI would not take these bytes before."""
        word, message = _refused_as(obstacle.status)
        ending = Rejected("xAI refused these bytes before; they were not sent again", "Invalid")
        trouble = Trouble(Kind.REFUSED, message)
        if self.files & self.found.files:
            answer = self._kept_as_it_is(message, word, "refused")
            if not isinstance(answer, Plan):
                return answer
            return replace(answer, ending=answer.ending or ending, troubles=(trouble,))
        noting = _noted(self.entry, {}, word, message)
        base = self.sight.base
        if base is not None:
            told = obstacle.model_copy(update={"told": True})
            base = base.model_copy(update={"obstacle": told})
        return Plan(
            "refused",
            "xAI would not take these bytes before",
            self.sight.base,
            noting,
            base,
            ending,
            troubles=(trouble,),
        )

    def _why_upload(self) -> tuple[str, str]:
        if not self.files:
            return "row 4: new document", "it is wanted and was never uploaded"
        if not self.files & self.found.files:
            return "row 11: file gone", "xAI does not have its file any more"
        return "row 7: other bytes", "its bytes are not the ones at xAI"

    def _not_uploaded(self, why: Unfit) -> Plan | Question:
        message = texts.not_uploaded(why, earlier=bool(self.files & self.found.files))
        if self.files & self.found.files:
            return self._kept_as_it_is(message, Word.UNSUPPORTED, "row 12: not fit for xAI", why)
        return self._plan(
            "row 12: not fit for xAI",
            why.value,
            _noted(self.entry, {}, Word.UNSUPPORTED, message),
            self.sight.base,
            troubles=(Trouble(texts.UNFIT_KINDS[why], message),),
        )

    def _kept_as_it_is(
        self, message: str, word: Word, rule: str, why: Unfit | None = None
    ) -> Plan | Question:
        """Keep the earlier version where it is wanted, and say in the record that it is earlier."""
        base = self._base()
        file = base.file_id
        if file is None or file not in self.found.files:
            file = min(self.files & self.found.files)
        reason = why.value if why is not None else "EspoCRM does not have the file"
        kind = texts.UNFIT_KINDS[why] if why is not None else Kind.NO_FILE
        answer = self._in_place(
            file, rule, f"{reason}; the earlier version stays", word=word, message=message
        )
        return _troubled(answer, Trouble(kind, message))

    def _nowhere_to_put(self) -> Plan:
        message = texts.collections_missing(self._missing)
        return self._plan(
            "row 18: collection gone",
            "no collection that wants it exists at xAI",
            _noted(self.entry, {}, Word.FAILED, message),
            self.sight.base,
            ending=self._rejection(),
            troubles=(Trouble(Kind.COLLECTION_MISSING, message),),
        )

    def _rejection(self) -> Rejected | None:
        if not self._missing:
            return None
        gone = ", ".join(sorted(self._missing))
        return Rejected(
            f"xAI has no such collection: {gone}; correct the knowledge base, then redrive",
            error="CollectionMissing",
        )

    def _aligned(self, file: str) -> Plan | Question:
        """Bring the collections in line with a file whose bytes are right."""
        if self._missing:
            message = texts.collections_missing(self._missing)
            answer = self._in_place(
                file,
                "row 18: collection gone",
                "a collection is gone",
                word=Word.FAILED,
                message=message,
            )
            return _troubled(answer, Trouble(Kind.COLLECTION_MISSING, message))
        mismatch = self._mismatch(file)
        if mismatch is not None and mismatch.tries == 1:
            return self._upload(mismatch)
        if mismatch is not None:
            message = texts.HASH_DIFFERS
            answer = self._in_place(
                file,
                HASH_DIFFERS,
                "xAI reports the hash of other bytes again",
                word=Word.FAILED,
                message=message,
            )
            if not isinstance(answer, Plan) or answer.more:
                return answer
            ending = Rejected("xAI reports the hash of other bytes, twice", error="HashDiffers")
            return replace(
                answer, ending=ending, troubles=(Trouble(Kind.INDEXING_FAILED, message),)
            )
        md5 = self._hash(file)
        word = self._word(Word.SYNCED)
        return self._in_place(file, "", "", word=word, message=None, md5=md5, follow=True)

    def _hash(self, file: str) -> str | Question | None:
        """Return the MD5 to note for the file: of its bytes, not what the record believes."""
        base, entry = self.sight.base, self.entry
        if base is None or base.file_id != file or not self._knows_content(base):
            return entry.synced_hash
        right = self.md5 is not None and self._digest(self.md5) == base.content
        by_sha256 = entry.sha256 is not None and entry.synced_hash == entry.sha256
        if self._digest(entry.synced_hash) == base.content or (right and by_sha256):
            return entry.synced_hash
        if right or Noted.HASH not in entry.writable:
            return self.md5
        read = self.facts is not None and not isinstance(self.facts, FileFacts)
        if read or (isinstance(self.facts, FileFacts) and self.facts.md5 is not None):
            return entry.synced_hash
        return AskFile(self._attachment, hashed=True)

    def _in_place(
        self,
        file: str,
        rule: str,
        reason: str,
        *,
        word: Word | None,
        message: str | None,
        md5: str | Question | None = None,
        follow: bool = False,
    ) -> Plan | Question:
        """Return the plan that puts this file where it is wanted, and all others away.

        Args:
            file: one that exists at xAI.
            rule, reason: empty: they follow from what there is to do.
            word, message: what the record is to say at the end.
            md5: the hash to note.
            follow: it is searchable only when xAI is done with it.
        """
        if md5 is not None and not isinstance(md5, str):
            return md5
        entry, found = self.entry, self.found
        wanted = entry.wanted - self._missing
        here = found.collections_of(file)
        joining = [Attach(file, place) for place in sorted(wanted - here)]
        leaving = [Detach(file, place) for place in sorted(here - entry.wanted - entry.on_hold)]
        unready = wanted & (
            found.indexing(file, Indexing.RUNNING) | found.indexing(file, Indexing.FAILED)
        )
        # Where the new version cannot be found yet, the one before stays to be found.
        kept = entry.on_hold | (unready if follow else frozenset())
        replaced = [
            Detach(old, place)
            for old in sorted(self.files - {file})
            for place in sorted(found.collections_of(old) - kept)
        ]
        base = self._base_around(file)
        cleared = [
            retired for retired in base.retired if not found.collections_of(retired.file_id) & kept
        ]
        doomed = [r.file_id for r in cleared if r.ours and r.file_id in found.files]
        if joining:
            if not rule:
                rule, reason = self._why_in_place(joining, leaving, replaced, (), doomed)
            return self._joined(base, joining, wanted | here, rule, reason, follow=follow)
        if (leaving or replaced or doomed) and self.sight.sharers is None:
            return AskSharers(tuple(sorted(self.files)))
        places = wanted | (here & entry.on_hold)
        values: dict[Noted, str | tuple[str, ...] | None] = {
            Noted.FILE: file,
            Noted.COLLECTIONS: tuple(sorted(places)),
        }
        if md5 is not None:
            values[Noted.HASH] = md5
        noting = _noted(entry, values, word, message, wanted_again=bool(places))
        if follow and unready:
            followed = self._followed(file, base, places, [*replaced, *leaving], noting)
            if followed is not None:
                return followed
        asked = [*replaced, *leaving]
        detached = _not_shared(asked, self.sight)
        deleted = [old for old in doomed if not _shared(old, self.sight)]
        actions: tuple[Action, ...] = (*detached, *noting, *map(DeleteFile, deleted))
        lent = _lent_files(asked, doomed, self.sight)
        after = base.model_copy(
            update={
                "collections": _names(places, _lent(asked, self.sight)),
                "retired": tuple(
                    retired.model_copy(update={"lent": True}) if retired in cleared else retired
                    for retired in base.retired
                    if retired not in cleared or retired.file_id in lent
                ),
                "indexing": None,
            }
            | ({"obstacle": None} if follow else {})
        )
        before = base.model_copy(
            update={"collections": _names(base.collections, entry.collections, places)}
        )
        if not rule:
            away = [one for one in leaving if one in detached]
            old = [one for one in replaced if one in detached]
            rule, reason = self._why_in_place([], away, old, noting, deleted)
        return Plan(rule, reason, before, actions, after, self._rejection())

    def _joined(
        self,
        base: DocumentBase,
        joining: list[Attach],
        places: frozenset[str],
        rule: str,
        reason: str,
        *,
        follow: bool,
    ) -> Plan:
        """Attach first; what xAI makes of it then is looked at before anything leaves."""
        since = base.indexing
        if follow and (since is None or self.sight.now - since > self.policy.indexing / 2):
            since = self.sight.now  # so a collection that is added later gets its time
        before = base.model_copy(
            update={
                "collections": _names(base.collections, self.entry.collections, places),
                "indexing": since,
            }
        )
        return Plan(rule, reason, before, tuple(joining), before, more=True)

    # Until it can be found -------------------------------------------------------------------

    def _followed(
        self,
        file: str,
        base: DocumentBase,
        places: frozenset[str],
        detaches: list[Detach],
        noting: tuple[WriteBack, ...],
    ) -> Plan | None:
        """Return what to do while the file cannot be found everywhere; None where nobody waits.

        Nobody waits for a file that the record tells of as it should: somebody before us saw to it.
        """
        failed = places & self.found.indexing(file, Indexing.FAILED)
        expected = bool(noting) or base.indexing is not None
        if not expected and (not failed or self.sight.base is None):
            return None
        since = base.indexing or self.sight.now
        elapsed = self.sight.now - since
        if failed or elapsed >= self.policy.indexing:
            return self._not_indexed(file, base, places, detaches)
        values: dict[Noted, str | tuple[str, ...] | None] = {
            Noted.FILE: file,
            Noted.COLLECTIONS: tuple(sorted(places)),
        }
        word = None if base.obstacle is not None else self._word(Word.INDEXING)
        shown = word is not None and word not in self.entry.words
        telling = _noted(self.entry, values, word, None) if shown else ()
        before = base.model_copy(
            update={
                "collections": _names(base.collections, self.entry.collections, places),
                "indexing": since,
            }
        )
        return Plan(
            INDEXING,
            "it is attached, and xAI still makes it searchable",
            before,
            (*_not_shared(detaches, self.sight), *telling),
            before,
            Wait(
                "xAI makes it searchable",
                min(max(elapsed, SOONEST_LOOK), LATEST_LOOK),
                until=since + 2 * self.policy.indexing,
            ),
        )

    def _not_indexed(
        self, file: str, base: DocumentBase, places: frozenset[str], detaches: list[Detach]
    ) -> Plan:
        """Tell that xAI cannot make it searchable, and let it try again, a few times."""
        entry, now = self.entry, self.sight.now
        base = base.model_copy(
            update={"collections": _names(base.collections, entry.collections, places)}
        )
        obstacle = self._obstacle("indexing")
        if obstacle is not None and base.indexing is None:
            again = self._tried_again(file, base, places, obstacle)
            if again is not None:
                return again
        else:
            obstacle = Obstacle(
                kind="indexing",
                content=self._digest(self.md5) or base.content,
                tries=1 if obstacle is None else obstacle.tries + 1,
                since=now,
            )
        earlier = any(self.found.collections_of(old) for old in self.files - {file})
        message = texts.not_indexed(self.found.error_of(file), earlier=earlier)
        values: dict[Noted, str | tuple[str, ...] | None] = {
            Noted.FILE: file,
            Noted.COLLECTIONS: tuple(sorted(places)),
        }
        told = obstacle.model_copy(update={"told": True})
        why = f"xAI could not make it searchable, {obstacle.tries} times"
        pause = _pause_after(obstacle.tries)
        ending: Rejected | Wait = Rejected(why, error="IndexingFailed")
        if pause is not None:
            retrying = "xAI could not make it searchable; it is to try again"
            ending = Wait(retrying, obstacle.since + pause - now)
        return Plan(
            INDEXING,
            f"{why} so far",
            base,
            (*_not_shared(detaches, self.sight), *_noted(entry, values, Word.FAILED, message)),
            base.model_copy(update={"indexing": None, "obstacle": told}),
            ending,
            troubles=(Trouble(Kind.INDEXING_FAILED, message),),
        )

    def _tried_again(
        self, file: str, base: DocumentBase, places: frozenset[str], obstacle: Obstacle
    ) -> Plan | None:
        """Attach it anew once that is due, or when a person set the status back."""
        pause = _pause_after(obstacle.tries)
        due = pause is not None and self.sight.now >= obstacle.since + pause
        asked = self._asked_again(obstacle, Word.FAILED)
        if not due and not asked:
            return None
        unready = places & (
            self.found.indexing(file, Indexing.FAILED) | self.found.indexing(file, Indexing.RUNNING)
        )
        again: list[Action] = []
        for place in sorted(unready):
            again += [Detach(file, place), Attach(file, place)]
        before = base.model_copy(
            update={"indexing": self.sight.now, "obstacle": None if asked else obstacle}
        )
        why = "xAI could not make it searchable; attached anew, so that it tries again"
        return Plan(INDEXING, why, before, tuple(again), before, more=True)

    def _asked_again(self, obstacle: Obstacle, word: Word) -> bool:
        """Say whether somebody wants it tried once more.

        An operator does by asking for this very run, a person by setting the record back, so that
        it tells of it no longer. A CRM that cannot tell of it at all says nothing by not doing so.
        """
        set_back = self.entry.fresh and word not in self.entry.words
        return obstacle.told and (self.sight.asked or set_back)

    def _mismatch(self, file: str) -> Obstacle | None:
        """Return what to note where xAI reports the hash of other bytes than were uploaded."""
        base, reported = self.sight.base, self.found.hash_of(file)
        if base is None or base.file_id != file or not base.hashes or len(reported) != _HASH:
            return None
        if not self._knows_content(base) or self._digest(reported) in base.hashes:
            return None
        before = self._obstacle("hash")
        if before is None:
            return Obstacle(kind="hash", content=base.content, since=self.sight.now, file_id=file)
        return before if before.file_id == file else before.model_copy(update={"tries": 2})

    def _why_in_place(
        self,
        joining: list[Attach],
        leaving: list[Detach],
        replaced: list[Detach],
        noting: tuple[WriteBack, ...],
        doomed: list[str],
    ) -> tuple[str, str]:
        if replaced or doomed:
            return "row 7: other bytes", "an earlier file of it is to be cleared away"
        if joining and leaving:
            return "row 8 and 9: collections", "it is wanted elsewhere than it is"
        if joining:
            return "row 8: collections added", "it is wanted where it is not yet"
        if leaving:
            return "row 9: collections left", "it is where it is not wanted any more"
        if self.entry.fresh and noting:
            return "row 6: same bytes", "told as new or changed, but the bytes are the same"
        if noting:
            return "row 5: in line", "it is in line at xAI, the record does not say so"
        if self.sight.base is None:
            return "row 5: adopted", "both sides agree already, as somebody before us left them"
        return "row 5: in line", "already in line"

    def _unwanted(self, rule: str, reason: str) -> Plan | Question:
        """Take every file of the document out of every collection that is not on hold."""
        entry, found, base = self.entry, self.found, self._base()
        leaving = [
            Detach(file, place)
            for file, place in sorted(found.attached)
            if place not in entry.on_hold
        ]
        held = {file for file, place in found.attached if place in entry.on_hold}
        ours = {r.file_id for r in base.retired if r.ours}
        if self.policy.delete_files and base.ours and base.file_id is not None:
            ours.add(base.file_id)
        doomed = sorted((ours & found.files) - held)
        if (leaving or doomed) and self.sight.sharers is None:
            return AskSharers(tuple(sorted(self.files)))
        dropped = base.file_id in doomed or (
            base.file_id is not None and base.file_id not in found.files
        )
        places = tuple(
            sorted(
                place
                for file, place in found.attached
                if place in entry.on_hold and file == base.file_id
            )
        )
        values: dict[Noted, str | tuple[str, ...] | None] = {Noted.COLLECTIONS: places}
        if dropped:
            values |= {Noted.FILE: None, Noted.HASH: None}
        lent = _lent_files(leaving, doomed, self.sight)
        retired = [
            one if one.file_id in held else one.model_copy(update={"lent": True})
            for one in base.retired
            if one.file_id in held | lent
        ]
        if dropped and base.file_id in lent:
            retired.append(Retired(file_id=base.file_id, ours=base.ours, lent=True))
        after = base.model_copy(
            update={
                "collections": _names(places, _lent(leaving, self.sight)),
                "retired": tuple(retired),
            }
            | ({"file_id": None, "ours": False, "content": None} if dropped else {})
        )
        actions: tuple[Action, ...] = (
            *_not_shared(leaving, self.sight),
            *_noted(entry, values, self._word(Word.UNWANTED), None),
            *(DeleteFile(file) for file in doomed if not _shared(file, self.sight)),
        )
        before = base.model_copy(
            update={"collections": _names(base.collections, entry.collections)}
        )
        return Plan(rule, reason, before, actions, after)

    # The base and the record -----------------------------------------------------------------

    def _base(self) -> DocumentBase:
        """Return the base, or one that knows no more than the record tells."""
        base, entry = self.sight.base, self.entry
        key_id = self.policy.digester.key_id
        if base is None:
            known = self.md5 is not None and entry.synced_as(self.md5)
            return DocumentBase(
                key_id=key_id,
                written_at=self.sight.now,
                file_id=entry.xai_id,
                attachment_id=entry.attachment_id if known else None,
                content=self._digest(self.md5) if known else None,
                recorded=self._digest(entry.md5) if known else None,
                collections=tuple(sorted(entry.collections)),
            )
        if not base.comparable(key_id):
            forgotten = {"content": None, "recorded": None, "hashes": ()}
            base = base.model_copy(update={"key_id": key_id, "normaliser": NORMALISER, **forgotten})
        if entry.xai_id is None or entry.xai_id == base.file_id:
            return base
        if any(retired.file_id == entry.xai_id for retired in base.retired):
            return base
        # A file that somebody else noted: it is not ours, but it is to leave the collections.
        strange = Retired(file_id=entry.xai_id, ours=False)
        return base.model_copy(update={"retired": (*base.retired, strange)})

    def _base_around(self, file: str) -> DocumentBase:
        """Return the base with `file` as the document's file and current digests."""
        base, entry = self._base(), self.entry
        ours = base.ours
        if base.file_id != file:
            ours = any(r.ours for r in base.retired if r.file_id == file)
            base = base.retiring(file)
        retired = tuple(r for r in base.retired if r.file_id != file)
        current = self._knows_content(base)
        if current and not self._unchanged_since(base):
            # The earlier version of a file that cannot be uploaded: the base goes on telling of it.
            return base.model_copy(update={"retired": retired})
        known = None
        if current:
            known = base.content
        elif self.md5 is not None and entry.synced_as(self.md5):
            known = self._digest(self.md5)
        return base.model_copy(
            update={
                "ours": ours,
                "attachment_id": entry.attachment_id if known else None,
                "content": known,
                "recorded": self._digest(entry.md5) if known else None,
                "retired": retired,
            }
        )

    def _word(self, word: Word) -> Word | None:
        """Return the status to write: only where a person waits for one, or ours is outdated."""
        return word if self.entry.fresh or self.entry.says in _VERDICTS else None

    def _plan(
        self,
        rule: str,
        reason: str,
        actions: tuple[WriteBack, ...],
        base: DocumentBase | None,
        *,
        ending: Rejected | None = None,
        troubles: tuple[Trouble, ...] = (),
    ) -> Plan:
        return Plan(rule, reason, base, actions, base, ending, troubles=troubles)


def _troubled(answer: Plan | Question, trouble: Trouble) -> Plan | Question:
    return replace(answer, troubles=(trouble,)) if isinstance(answer, Plan) else answer


def _pause_after(tries: int) -> timedelta | None:
    return INDEXING_PAUSES[tries - 1] if tries <= len(INDEXING_PAUSES) else None


# -- whose words they are ---------------------------------------------------------------------------

_WATCHED = (Noted.FILE, Noted.COLLECTIONS, Noted.HASH, Noted.STATUS)


def _accounted(answer: Plan, sight: Sight, policy: Policy) -> Plan:
    """Return the plan with what its base must say about our fields, and with what it clashes.

    Before a write-back the base knows what it is to write, so a run that was killed around it
    tells its own value from a person's: what is neither agreed nor ours, somebody else wrote.
    Without a base the record's words are the predecessor's, and nobody's edit is seen.
    """
    entry, base, digester = sight.entry, sight.base, policy.digester
    if entry is None or answer.after is None:
        return answer
    back = next((action for action in answer.actions if isinstance(action, WriteBack)), None)
    shown = {what: digester.of(entry.value_of(what)) for what in _WATCHED}
    known = base is not None and base.comparable(digester.key_id) and base.noted != {}
    noted = base.noted if base is not None and known else shown
    noting = base.noting if base is not None and known else None
    if back is None:
        if answer.ending is None and not answer.more:
            noted, noting = shown, None
        held = {"noted": noted, "noting": noting}
        before = None if answer.before is None else answer.before.model_copy(update=held)
        return replace(answer, before=before, after=answer.after.model_copy(update=held))
    values = {what: _text_of(value) for what, value in back.values if what in _WATCHED}
    target = {what: digester.of(value) for what, value in values.items()}
    # One spelling may stand for two of our words: it is ours if it is either's.
    said = {digester.of(word) for word in entry.words} | {shown[Noted.STATUS]}
    clashes = tuple(
        Clash(what, value, entry.status_said if what is Noted.STATUS else entry.value_of(what))
        for what, value in values.items()
        if known
        and not (what is Noted.STATUS and entry.fresh)
        and not (said if what is Noted.STATUS else {shown[what]})
        & {noted.get(what), noting.target.get(what) if noting else None}
    )
    about = Noting(version=entry.version, target=target)
    before = answer.before or base
    return replace(
        answer,
        before=None
        if before is None
        else before.model_copy(update={"noted": noted, "noting": about}),
        after=answer.after.model_copy(update={"noted": noted | target, "noting": None}),
        clashes=clashes,
    )


def _text_of(value: str | tuple[str, ...] | Word | None) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value or "")


def _names(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for group in groups for name in group}))


def _noted(
    entry: Entry,
    values: dict[Noted, str | tuple[str, ...] | None],
    word: Word | None,
    message: str | None,
    *,
    wanted_again: bool = False,
) -> tuple[WriteBack, ...]:
    """Return the write-back of what differs from the record; empty when nothing does.

    Args:
        wanted_again: the document lies in a collection; a status that says it does not belong in
            any is corrected with the next thing written, and alone is not worth a write.
    """
    now: dict[Noted, str | tuple[str, ...] | None] = {
        Noted.FILE: entry.xai_id,
        Noted.COLLECTIONS: tuple(sorted(entry.collections)),
        Noted.HASH: entry.synced_hash,
        Noted.MESSAGE: entry.message,
    }
    wanted = {**values} if message is None else {**values, Noted.MESSAGE: message}
    differing: list[tuple[Noted, str | tuple[str, ...] | Word | None]] = [
        (what, value)
        for what, value in wanted.items()
        if what in entry.writable and value != now[what]
    ]
    if word is None and differing and wanted_again and entry.says is Word.UNWANTED:
        word = Word.SYNCED
    if word is not None and word not in entry.words and Noted.STATUS in entry.writable:
        differing.append((Noted.STATUS, word))
    # An old message goes with the next thing written; alone it is not worth a write.
    if (
        differing
        and message is None
        and entry.message is not None
        and Noted.MESSAGE in entry.writable
    ):
        differing.append((Noted.MESSAGE, None))
    return (WriteBack(tuple(differing)),) if differing else ()
