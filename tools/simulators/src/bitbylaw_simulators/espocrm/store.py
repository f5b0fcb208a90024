"""The CRM's records: saving with its rules and hooks, links, and the events that follow."""

import random
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.contents import Contents
from bitbylaw_simulators.espocrm.quirks import EspoQuirks
from bitbylaw_simulators.espocrm.schema import (
    EntityDef,
    Field,
    Link,
    attributes,
    read_only_attributes,
    schema,
    status_options,
)

UNTOLD = frozenset({"modifiedAt", "versionNumber", "streamUpdatedAt"})
"""Attributes that no update event carries."""


class Refusal(Exception):  # noqa: N818 - an answer on its way, not a fault of ours
    """The call ends with this status, this `X-Status-Reason` and mostly no body."""

    def __init__(self, status: int, reason: str = "", body: Any = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.body = body


@dataclass(frozen=True, slots=True)
class User:
    """Who does something.

    Attributes:
        id: of the User record.
        name: as shown in `modifiedByName`.
        type: regular, admin, api or system.
        api_key: opens the API for an API user.
        secret: signs HMAC requests of an API user.
        password: of a person.
    """

    id: str
    name: str
    type: str = "regular"
    api_key: str | None = None
    secret: str | None = None
    password: str | None = None


@dataclass(slots=True)
class Row:
    """One record.

    Attributes:
        number: its place in the order of creation.
        values: its attributes.
        deleted: softly deleted: the row is kept.
        version: counts saves, from 1.
        shown_at: from when reads show the latest values; before it they show `before`.
        before: the values before the latest save; None when there was no record.
    """

    number: int
    values: dict[str, Any]
    deleted: bool = False
    version: int = 1
    shown_at: datetime | None = None
    before: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """How a save is done.

    Attributes:
        user: who does it.
        silent: no webhook, no stamps: as imports do it.
        delay: seconds until reads show it.
        version: the version the writer saw; None writes whatever there is.
        skip_duplicates: create although a duplicate exists.
        forced: attributes set after the hooks: a test's own world.
    """

    user: User
    silent: bool = False
    delay: float = 0.0
    version: int | None = None
    skip_duplicates: bool = False
    forced: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """Holds the records and keeps the CRM's rules."""

    def __init__(
        self,
        clock: SimClock,
        contents: Contents,
        dice: random.Random,
        tell: Callable[[str, str, str, dict[str, Any], str | None], None],
    ) -> None:
        self.clock = clock
        self.contents = contents
        self.dice = dice
        self.quirks = EspoQuirks()
        self.definitions: dict[str, EntityDef] = schema(self.quirks)
        self.tables: dict[str, dict[str, Row]] = {}
        self.files: dict[str, str] = {}
        self.uploading: dict[str, tuple[int, bytes]] = {}
        self._tell = tell
        self._number = 0
        self._sides: dict[str, dict[tuple[str, str], list[Row]]] = {}

    def use(self, quirks: EspoQuirks) -> None:
        """Take over the quirks; records keep the attributes they have."""
        self.quirks = quirks
        self.definitions = schema(quirks)
        for entity, table in self.tables.items():
            blank = self._blank(entity)
            for row in table.values():
                row.values = {**blank, **row.values}

    # reading

    def definition(self, entity: str) -> EntityDef:
        """Return the definition of an entity type that the API serves.

        Raises:
            Refusal: 404, there is none.
        """
        found = self.definitions.get(entity)
        if found is None or (found.junction and not self.quirks.junction_api):
            raise Refusal(404, f"Controller '{entity}' does not exist.")
        return found

    def row(self, entity: str, record_id: str) -> Row:
        """Return a record that is not deleted, with its latest values.

        Raises:
            Refusal: 404, there is none.
        """
        row = self.tables.get(entity, {}).get(record_id)
        if row is None or row.deleted:
            raise Refusal(404, f"{entity} {record_id} not found.")
        return row

    def seen(self, entity: str, record_id: str) -> dict[str, Any]:
        """Return a record as reads show it now.

        Raises:
            Refusal: 404, there is none, or it is not shown yet.
        """
        shown = self._shown(self.row(entity, record_id))
        if shown is None:
            raise Refusal(404, f"{entity} {record_id} not found.")
        return shown

    def all(self, entity: str) -> list[dict[str, Any]]:
        """Return the records that reads show, oldest first."""
        rows = (row for row in self.tables.get(entity, {}).values() if not row.deleted)
        return [shown for row in rows if (shown := self._shown(row)) is not None]

    def output(self, entity: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as the API words it."""
        row = self.tables[entity][values["id"]]
        shown = {"id": values["id"], **values, "deleted": row.deleted}
        if entity in self.quirks.optimistic_locking:
            shown["versionNumber"] = row.version
        if self.quirks.link_multiple and entity == "CDokumente":
            for link in self.definitions[entity].links:
                shown |= self._link_attributes(entity, values["id"], link)
        return shown

    def exists(self, entity: str, record_id: str) -> bool:
        """Return whether the row is there, deleted softly or not."""
        return record_id in self.tables.get(entity, {})

    # saving

    def create(self, entity: str, values: Mapping[str, Any], save: Save) -> Row:
        """Make a record.

        Raises:
            Refusal: 400 for an invalid value, 409 for a duplicate.
        """
        given = self._accepted(entity, values)
        record_id = self.new_id()
        now = self.stamp()
        new = {**self._blank(entity), **given}
        self._expand(entity, new, given)
        self._validate(entity, new)
        if not save.skip_duplicates:
            self._refuse_duplicate(entity, new)
        self._hooks(entity, None, new, save.user)
        people = {"createdById": save.user.id, "createdByName": save.user.name}
        stamps = {"createdAt": now, "modifiedAt": now, **people}
        new |= {name: text for name, text in stamps.items() if name in new}
        new |= save.forced
        row = Row(self._next(), {"id": record_id, **new})
        self.tables.setdefault(entity, {})[record_id] = row
        self._sides.pop(entity, None)
        self._veil(row, None, save.delay)
        told = self._link_ids(entity, record_id, values, save)
        self._claim_files(entity, row.values)
        if not save.silent:
            set_values = {name: value for name, value in row.values.items() if value is not None}
            self._event(entity, "create", record_id, {**set_values, **told}, save.user)
        return row

    def update(
        self, entity: str, record_id: str, values: Mapping[str, Any], save: Save
    ) -> tuple[str, ...]:
        """Change a record; return the attributes whose value became another one.

        Raises:
            Refusal: 404 no such record, 409 somebody else changed it, 400 an invalid value.
        """
        row = self.row(entity, record_id)
        given = self._accepted(entity, values)
        old = row.values
        new = {**old, **given}
        self._expand(entity, new, given)
        self._refuse_stale(entity, row, given, save.version)
        self._validate(entity, new)
        self._hooks(entity, old, new, save.user)
        if not save.silent or self.quirks.silent_saves_touch_modified:
            stamps = {
                "modifiedAt": self.stamp(),
                "modifiedById": save.user.id,
                "modifiedByName": save.user.name,
            }
            new |= {name: text for name, text in stamps.items() if name in new}
        new |= save.forced
        changed = tuple(name for name in new if new[name] != old.get(name))
        self._veil(row, old, save.delay)
        row.values = new
        row.version += 1
        self._sides.pop(entity, None)
        told = self._link_ids(entity, record_id, values, save)
        self._claim_files(entity, new)
        self._propagate(entity, record_id, changed)
        if not save.silent:
            news = {name: new[name] for name in changed if name not in UNTOLD}
            self._tell_update(entity, record_id, {**news, **told}, save.user)
        return (*changed, *told)

    def delete(self, entity: str, record_id: str, save: Save) -> None:
        """Delete a record softly.

        Raises:
            Refusal: 404, there is none.
        """
        row = self.row(entity, record_id)
        row.deleted = True
        if not save.silent:
            self._event(entity, "delete", record_id, {"id": record_id}, save.user)

    def restore(self, entity: str, record_id: str) -> None:
        """Take back a deletion; silent, as in the CRM."""
        self.tables[entity][record_id].deleted = False

    # links

    def link(self, entity: str, link: str) -> Link:
        """Return a list link of an entity type.

        Raises:
            Refusal: 404 no such link, 403 one that is set by writing its id.
        """
        definition = self.definition(entity)
        if link in definition.links:
            return definition.links[link]
        if link in definition.fields and definition.fields[link].type in {"link", "linkParent"}:
            raise Refusal(403, f"Link '{link}' is not a list.")
        raise Refusal(404, f"Link '{link}' does not exist.")

    def linked(self, entity: str, record_id: str, link: str) -> list[dict[str, Any]]:
        """Return the records at the other side that reads show, in the order of linking."""
        found = self.link(entity, link)
        if found.type == "manyMany":
            table = self.tables.get(found.entity, {})
            others = (table.get(row[found.far]) for row in self._joined(found, record_id))
            there = (row for row in others if row is not None and not row.deleted)
            return [shown for row in there if (shown := self._shown(row)) is not None]
        return [row for row in self.all(found.entity) if row.get(found.far) == record_id]

    def relate(
        self, entity: str, record_id: str, link: str, ids: Sequence[str], delay: float = 0.0
    ) -> list[str]:
        """Link without a save: no event, no stamp; return the ids that were not linked before.

        Raises:
            Refusal: 404, one of the records is not there.
        """
        found = self.link(entity, link)
        self.row(entity, record_id)
        new: list[str] = []
        for far in ids:
            other = self.row(found.entity, far)
            if found.type != "manyMany":
                if other.values.get(found.far) != record_id:
                    other.values[found.far] = record_id
                    new.append(far)
            elif self._joint(found, record_id, far) is None:
                self._join(found, record_id, far, delay)
                new.append(far)
        return new

    def unrelate(self, entity: str, record_id: str, link: str, ids: Sequence[str]) -> list[str]:
        """Unlink without a save; return the ids that were linked before."""
        found = self.link(entity, link)
        self.row(entity, record_id)
        gone: list[str] = []
        for far in ids:
            if found.type != "manyMany":
                other = self.row(found.entity, far)
                if other.values.get(found.far) == record_id:
                    other.values[found.far] = None
                    gone.append(far)
            elif (row := self._joint(found, record_id, far)) is not None:
                row.deleted = True
                gone.append(far)
                if found.hooked and self.quirks.link_hooks:
                    self._unclean(found, record_id, far)
        return gone

    def junctions(self, entity: str, record_id: str, link: str) -> list[dict[str, Any]]:
        """Return the junction rows of a record's many-to-many link."""
        found = self.link(entity, link)
        return self._joined(found, record_id)

    # files

    def add_attachment(self, values: Mapping[str, Any], content: bytes | None, save: Save) -> Row:
        """Make an attachment; without content it is being uploaded in chunks."""
        forced: dict[str, Any] = dict(save.forced)
        if content is None:
            forced["isBeingUploaded"] = True
        else:
            forced["size"] = len(content)
        row = self.create("Attachment", values, Save(save.user, silent=True, forced=forced))
        if content is not None:
            self.files[row.values["id"]] = self.contents.add(content).sha256
        return row

    # helpers

    def new_id(self) -> str:
        """Return a fresh id: 13 hex digits of time and 4 of chance, or a UUID."""
        if self.quirks.uuid_ids:
            return str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        now = self.clock.now()
        seconds, micros = int(now.timestamp()), now.microsecond
        while True:
            found = f"{seconds:08x}{micros:05x}{self.dice.getrandbits(16):04x}"
            if not any(found in table for table in self.tables.values()):
                return found

    def stamp(self) -> str:
        """Return the time as the CRM writes it: UTC, seconds, no zone."""
        return self.clock.now().strftime("%Y-%m-%d %H:%M:%S")

    def dump(self) -> dict[str, Any]:
        """Return all records as JSON."""
        tables = {
            entity: {
                record_id: {
                    **asdict(row),
                    "shown_at": row.shown_at.isoformat() if row.shown_at else None,
                }
                for record_id, row in table.items()
            }
            for entity, table in self.tables.items()
        }
        return {"tables": tables, "files": dict(self.files), "number": self._number}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned."""
        self._number = int(state["number"])
        self._sides.clear()
        self.files = dict(state["files"])
        for entity, table in state["tables"].items():
            self.tables[entity] = {
                record_id: Row(
                    **{
                        **entry,
                        "shown_at": datetime.fromisoformat(entry["shown_at"])
                        if entry["shown_at"]
                        else None,
                    }
                )
                for record_id, entry in table.items()
            }

    def clear(self) -> None:
        """Forget all records."""
        self.tables.clear()
        self._sides.clear()
        self.files.clear()
        self.uploading.clear()
        self._number = 0

    def _shown(self, row: Row) -> dict[str, Any] | None:
        if row.shown_at is not None and self.clock.now() < row.shown_at:
            return row.before
        return row.values

    def _veil(self, row: Row, before: dict[str, Any] | None, delay: float) -> None:
        if delay > 0:
            row.before = None if before is None else self._shown(row)
            row.shown_at = self.clock.now() + timedelta(seconds=delay)
        elif row.shown_at is not None and self.clock.now() >= row.shown_at:
            row.shown_at, row.before = None, None

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _blank(self, entity: str) -> dict[str, Any]:
        blank: dict[str, Any] = {}
        for name, spec in self.definitions[entity].fields.items():
            for attribute in attributes(name, spec):
                blank[attribute] = None
            if spec.type == "bool" or spec.default is not None:
                blank[name] = spec.default if spec.default is not None else False
        return blank

    def _accepted(self, entity: str, values: Mapping[str, Any]) -> dict[str, Any]:
        definition = self.definitions[entity]
        ignored = read_only_attributes(definition)
        known = {
            attribute
            for name, spec in definition.fields.items()
            for attribute in attributes(name, spec)
        }
        given = {
            name: value for name, value in values.items() if name in known and name not in ignored
        }
        for name, spec in definition.fields.items():
            for attribute in attributes(name, spec):
                if not _fits(spec, attribute == name, given.get(attribute)):
                    _invalid(name, "valid")
        return given

    def _expand(self, entity: str, new: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Set what follows from other attributes: names of links, primary addresses, full names."""
        for name, spec in self.definitions[entity].fields.items():
            if f"{name}Id" in given and spec.type in {"link", "file", "image"}:
                target = self.tables.get(str(spec.entity), {}).get(str(given[f"{name}Id"]))
                new[f"{name}Name"] = target.values.get("name") if target else None
            elif spec.type in {"email", "phone"}:
                _expand_addresses(name, spec, new, given)
        if entity == "CBeteiligte":
            person = " ".join(filter(None, (new.get("firstName"), new.get("lastName"))))
            new["name"] = new.get("firmenname") or person or new.get("name")

    def _validate(self, entity: str, new: Mapping[str, Any]) -> None:
        for name, spec in self.definitions[entity].fields.items():
            value = new.get(name)
            if spec.required and value in (None, ""):
                _invalid(name, "required")
            if spec.max_length and isinstance(value, str) and len(value) > spec.max_length:
                _invalid(name, "maxLength")
            if (
                self.quirks.validate_enums
                and spec.options
                and value not in (None, "")
                and value not in spec.options
            ):
                _invalid(name, "valid")
        if entity == "CBankverbindungen" and not _iban_holds(str(new.get("iban") or "")):
            raise Refusal(400, "invalidIbanChecksum")

    def _refuse_duplicate(self, entity: str, new: Mapping[str, Any]) -> None:
        names = self.definitions[entity].duplicate_fields if self.quirks.duplicate_check else ()
        if not names:
            return
        twins = [
            self.output(entity, record)
            for record in self.all(entity)
            if any(new.get(name) and record.get(name) == new[name] for name in names)
        ]
        if twins:
            raise Refusal(409, "duplicate", twins[:5])

    def _refuse_stale(
        self, entity: str, row: Row, given: Mapping[str, Any], version: int | None
    ) -> None:
        if (
            version is None
            or entity not in self.quirks.optimistic_locking
            or version == row.version
        ):
            return
        differing = {
            name: row.values[name] for name, value in given.items() if row.values[name] != value
        }
        if differing:
            raise Refusal(409, "modified", {"values": differing, "versionNumber": row.version})

    # hooks

    def _hooks(
        self, entity: str, old: Mapping[str, Any] | None, new: dict[str, Any], user: User
    ) -> None:
        if entity == "CDokumente" and self.quirks.hash_hook:
            self._hash(old, new)
        elif entity == "Webhook":
            self._webhook(old, new, user)
        elif entity in {"CBeteiligte", "CBankverbindungen"} and self.quirks.sync_status_hook:
            self._sync_status(entity, old, new, user)

    def _hash(self, old: Mapping[str, Any] | None, new: dict[str, Any]) -> None:
        name = f"{self.quirks.file_field}Id"
        if new[name] == (old[name] if old else None):
            return
        sha256 = self.files.get(str(new[name]))
        stored = self.contents.stored(sha256) if sha256 else None
        new["md5sum"] = stored.md5 if stored else None
        new["sha256"] = stored.sha256 if stored else None
        if self.quirks.blake3_field:
            new[self.quirks.blake3_field] = stored.blake3 if stored else None
        status, options = status_options(self.quirks)
        if stored:
            new[status] = options[0] if old is None else options[1]

    def _sync_status(
        self, entity: str, old: Mapping[str, Any] | None, new: dict[str, Any], user: User
    ) -> None:
        if user.type == "api" or (old is not None and old == new):
            return
        if old is not None and old["syncStatus"] != new["syncStatus"]:
            return  # the person set it
        words = {
            "CBeteiligte": ("pending_sync", "dirty"),
            "CBankverbindungen": ("unclean", "unclean"),
        }
        new["syncStatus"] = words[entity][0 if old is None else 1]

    def _webhook(self, old: Mapping[str, Any] | None, new: dict[str, Any], user: User) -> None:
        if old is not None:
            new["event"] = old["event"]
            return
        found = re.fullmatch(r"(\w+)\.(create|update|delete|fieldUpdate\.(\w+))", new["event"])
        target = self.definitions.get(found.group(1)) if found else None
        if found is None or target is None or not target.object:
            _invalid("event", "valid")
            return
        if not re.match(r"https?://", new["url"]):
            _invalid("url", "valid")
        new["entityType"] = found.group(1)
        new["type"] = found.group(2).partition(".")[0]
        new["field"] = found.group(3)
        if not new["userId"] and user.type == "api":
            new |= {"userId": user.id, "userName": user.name}
        if not new["userId"]:
            new["skipOwn"] = False
        new["secretKey"] = f"{self.dice.getrandbits(128):032x}"

    def _propagate(self, entity: str, record_id: str, changed: Iterable[str]) -> None:
        """Mark the junction rows of a changed document, and their parents."""
        watched = {"name", f"{self.quirks.file_field}Id"}
        if entity != "CDokumente" or not self.quirks.link_hooks or not watched & set(changed):
            return
        for link in self.definitions[entity].links.values():
            for row in self._side(link, record_id):
                if not row.deleted:
                    marks = {"syncstatus": "unclean", "syncStatus": "changed"}
                    row.values |= {name: mark for name, mark in marks.items() if name in row.values}
                    self._unclean(link, record_id, row.values[link.far])

    def _unclean(self, link: Link, near: str, far: str) -> None:
        """Mark the knowledge base or the case of a link, whichever side it was made from."""
        for entity, record_id in (
            (link.entity, far),
            ("CAIKnowledge", near),
            ("CAdvowareAkten", near),
        ):
            row = self.tables.get(entity, {}).get(record_id)
            if row is not None and "syncStatus" in row.values and entity != "CDokumente":
                row.values["syncStatus"] = "unclean"

    def _joint(self, link: Link, near: str, far: str) -> Row | None:
        rows = self._side(link, near)
        return next((r for r in rows if not r.deleted and r.values[link.far] == far), None)

    def _joined(self, link: Link, record_id: str) -> list[dict[str, Any]]:
        """Return the junction rows of a record that reads show."""
        rows = (row for row in self._side(link, record_id) if not row.deleted)
        return [shown for row in rows if (shown := self._shown(row)) is not None]

    def _side(self, link: Link, record_id: str) -> list[Row]:
        """Return a record's junction rows, deleted or not, from an index made when first asked."""
        relation = str(link.relation)
        if relation not in self._sides:
            index: dict[tuple[str, str], list[Row]] = {}
            for row in self.tables.get(relation, {}).values():
                for name in (link.near, link.far):
                    index.setdefault((name, row.values[name]), []).append(row)
            self._sides[relation] = index
        return self._sides[relation].get((link.near, record_id), [])

    def _join(self, link: Link, near: str, far: str, delay: float) -> None:
        relation = str(link.relation)
        record_id = self.new_id()
        values = {"id": record_id, **self._blank(relation), link.near: near, link.far: far}
        row = Row(self._next(), values)
        if not (link.hooked and self.quirks.link_hooks):
            row.values |= {name: None for name in ("syncstatus", "syncStatus") if name in values}
        else:
            self._unclean(link, near, far)
        self.tables.setdefault(relation, {})[record_id] = row
        if relation in self._sides:
            for name in (link.near, link.far):
                self._sides[relation].setdefault((name, values[name]), []).append(row)
        self._veil(row, None, delay)

    def _link_ids(
        self, entity: str, record_id: str, values: Mapping[str, Any], save: Save
    ) -> dict[str, Any]:
        """Bring links in line with `<link>Ids` in a save; return what the event tells of them."""
        told: dict[str, Any] = {}
        for name, link in self.definitions[entity].links.items():
            wanted = values.get(f"{name}Ids")
            if link.type != "manyMany" or not isinstance(wanted, list):
                continue
            if not all(isinstance(far, str) for far in wanted):
                _invalid(name, "valid")
            if save.user.type == "api" and not self.quirks.link_multiple:
                continue
            before = [row["id"] for row in self.linked(entity, record_id, name)]
            new = self.relate(entity, record_id, name, wanted, save.delay)
            gone = [far for far in before if far not in wanted]
            self.unrelate(entity, record_id, name, gone)
            if new or gone:
                told |= self._link_attributes(entity, record_id, name)
        return told

    def _link_attributes(self, entity: str, record_id: str, link: str) -> dict[str, Any]:
        linked = self.linked(entity, record_id, link)
        names = {row["id"]: row.get("name") for row in linked}
        return {f"{link}Ids": list(names), f"{link}Names": names}

    def _claim_files(self, entity: str, values: Mapping[str, Any]) -> None:
        """Tell the attachments of a saved record whose they are."""
        for name, spec in self.definitions[entity].fields.items():
            if spec.type in {"file", "image"} and values.get(f"{name}Id"):
                row = self.tables.get("Attachment", {}).get(values[f"{name}Id"])
                if row is not None:
                    row.values |= {"relatedType": entity, "relatedId": values["id"], "field": name}

    # events

    def _tell_update(self, entity: str, record_id: str, news: dict[str, Any], user: User) -> None:
        if not news:
            return
        self._event(entity, "update", record_id, {**news, "id": record_id}, user)
        row = self.tables[entity][record_id]
        for name, spec in self.definitions[entity].fields.items():
            own = attributes(name, spec)
            if set(own) & set(news):
                told = {attribute: row.values.get(attribute) for attribute in own}
                self._event(
                    entity, f"fieldUpdate.{name}", record_id, {"id": record_id, **told}, user
                )

    def _event(
        self, entity: str, action: str, record_id: str, payload: dict[str, Any], user: User
    ) -> None:
        if self.definitions[entity].object:
            self._tell(f"{entity}.{action}", entity, record_id, payload, user.id)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "varchar": str, "text": str, "url": str, "enum": str, "date": str, "datetime": str,
    "email": str, "phone": str, "bool": bool, "int": (int, float, str), "float": (int, float, str),
    "array": list, "multiEnum": list, "jsonObject": (dict, list),
}  # fmt: skip


def _fits(spec: Field, itself: bool, value: Any) -> bool:
    """Return whether a value has the type of its field's attribute.

    Args:
        spec: the field.
        itself: whether the attribute is named as the field; else it is one of `Id`, `Name`, `Data`.
        value: what was given; None fits everywhere.
    """
    if value is None:
        return True
    if itself:
        return isinstance(value, _TYPES.get(spec.type, object))
    if spec.type in {"email", "phone"}:
        return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
    return isinstance(value, str)


def _invalid(name: str, kind: str) -> None:
    translation = {
        "label": "validationFailure",
        "scope": None,
        "data": {"field": name, "type": kind},
    }
    raise Refusal(400, "validationFailure", {"messageTranslation": translation})


def _expand_addresses(
    name: str, spec: Field, new: dict[str, Any], given: Mapping[str, Any]
) -> None:
    data = f"{name}Data"
    if data in given:
        entries = given[data] or []
        primary = next((entry for entry in entries if entry.get("primary")), None)
        chosen = primary or (entries[0] if entries else None)
        new[name] = chosen.get(name) if chosen else None
    elif given.get(name):
        entry = {name: given[name], "primary": True, "optOut": False, "invalid": False}
        more = {"lower": str(given[name]).lower()} if spec.type == "email" else {"type": "Mobile"}
        others = [other for other in new[data] or [] if other.get(name) != given[name]]
        new[data] = [{**entry, **more}, *({**other, "primary": False} for other in others)]


def _iban_holds(iban: str) -> bool:
    """Return whether the checksum of an IBAN is right."""
    compact = iban.replace(" ", "").upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{8,30}", compact):
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1
