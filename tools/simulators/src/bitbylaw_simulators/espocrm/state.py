"""EspoCRM whole: what its API answers, what people do in it, what it tells by webhooks."""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitbylaw_simulators.calls import Call
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.contents import Contents
from bitbylaw_simulators.control import json_object
from bitbylaw_simulators.espocrm.access import Access
from bitbylaw_simulators.espocrm.php import php_json, php_query
from bitbylaw_simulators.espocrm.quirks import EspoQuirks
from bitbylaw_simulators.espocrm.schema import metadata
from bitbylaw_simulators.espocrm.store import Refusal, Row, Save, Store, User
from bitbylaw_simulators.espocrm.webhooks import Delivery, WebhookQueue
from bitbylaw_simulators.espocrm.where import Where
from bitbylaw_simulators.faults import Fault
from bitbylaw_simulators.quirks import described, switched
from bitbylaw_simulators.simulator import Simulator, delay_of
from bitbylaw_simulators.wire import SimRequest, SimResponse, json_answer

API_KEY = "7f3c9a5d1e8b4c6fa0d2e9b7c4a1f8e6"
API_SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105 - a simulator's, in every test vector
API_USER = User("65f0c1d2e3a4b5000", "bitbylaw", "api", api_key=API_KEY, secret=API_SECRET)
ADMIN = User("1", "admin", "admin", password="admin")  # noqa: S106 - a simulator's
PERSON = User("65f0c1d2e3a4b5001", "Anna Schäfer", "regular", password="anna")  # noqa: S106 - a simulator's
BASE = "/api/v1"
WEBHOOKS_PER_USER = 50


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call on its way: the request, who asks, its path, its log entry, its marks."""

    request: SimRequest
    user: User
    path: tuple[str, ...]
    call: Call
    marks: Sequence[Fault]

    def fields(self) -> dict[str, Any]:
        try:
            body = self.request.json()
        except ValueError as error:
            raise Refusal(400, "Bad JSON.") from error
        if body is None:
            return {}
        if not isinstance(body, dict):
            raise Refusal(400, "The body must be an object.")
        return body

    def save(self, **more: Any) -> Save:
        return Save(self.user, delay=delay_of(self.marks), **more)


class EspoCRM(Simulator):
    """EspoCRM as it behaves.

    Args:
        clock: its time; a virtual one when absent.
        contents: where files are kept; in memory when absent.
        quirks: its doubtful manners.
        seed: of ids and secrets; None makes every run differ.
        api_user: the integration's user with its key.
    """

    name = "espocrm"

    def __init__(
        self,
        clock: SimClock | None = None,
        *,
        contents: Contents | None = None,
        quirks: EspoQuirks | None = None,
        seed: int | None = 0,
        api_user: User = API_USER,
    ) -> None:
        super().__init__(clock, contents, seed)
        self.quirks = quirks or EspoQuirks()
        self.users = [api_user, ADMIN, PERSON]
        self.api_user = api_user
        self.webhooks = WebhookQueue(self._registered, self._row_exists, self._drop_webhook)
        self.store = Store(self.clock, self.stored, self.dice, self._event)
        self.store.use(self.quirks)
        self.access = Access(lambda: self.users, lambda: self.quirks.login_ban)
        self.deliver: Callable[[int], Any] | None = None
        self._routes = self._route_table()
        self._seat_users()

    # what a person does in the CRM

    def create(
        self, entity: str, values: Mapping[str, Any], *, user: User = PERSON, silent: bool = False
    ) -> str:
        """Create a record as a person; return its id."""
        row = self.store.create(entity, values, Save(user, silent=silent, skip_duplicates=True))
        self.did(None, "create", f"{entity}/{row.values['id']}")
        return str(row.values["id"])

    def edit(
        self,
        record_id: str,
        *,
        entity: str = "CDokumente",
        user: User = PERSON,
        silent: bool = False,
        **fields: Any,
    ) -> tuple[str, ...]:
        """Change a record as a person; return the attributes that became another value."""
        changed = self.store.update(entity, record_id, fields, Save(user, silent=silent))
        self.did(None, "update", f"{entity}/{record_id}")
        return changed

    def delete(
        self,
        record_id: str,
        *,
        entity: str = "CDokumente",
        user: User = PERSON,
        silent: bool = False,
    ) -> None:
        """Delete a record as a person: softly, so that reads answer 404."""
        self.store.delete(entity, record_id, Save(user, silent=silent))
        self.did(None, "delete", f"{entity}/{record_id}")

    def restore(self, record_id: str, *, entity: str = "CDokumente") -> None:
        """Take back a deletion; silent, as in the CRM."""
        self.store.restore(entity, record_id)
        self.did(None, "restore", f"{entity}/{record_id}")

    def add_attachment(
        self, name: str, content: bytes, *, content_type: str | None = None, user: User = PERSON
    ) -> str:
        """Store a file as a person; return the attachment's id."""
        values = {
            "name": name,
            "type": content_type or _mime(name),
            "role": "Attachment",
            "relatedType": "CDokumente",
            "field": self.quirks.file_field,
        }
        row = self.store.add_attachment(values, content, Save(user))
        self.did(None, "upload_attachment", f"Attachment/{row.values['id']}")
        return str(row.values["id"])

    def add_document(
        self,
        name: str,
        content: bytes | None,
        *,
        collections: Sequence[str] = (),
        user: User = PERSON,
        silent: bool = False,
        content_type: str | None = None,
        **fields: Any,
    ) -> str:
        """Create a document as a person; return its id.

        Args:
            name: of the record and of its file.
            content: the file's bytes; None makes a record without a file.
            collections: knowledge bases by id, or by the collection id they hold; an unknown
                collection id gets an active knowledge base of its own.
            user: who does it.
            silent: as an import does it: no webhook.
            content_type: of the file; guessed from the name when absent.
            fields: more attributes; they prevail over what the CRM's hooks set.
        """
        values: dict[str, Any] = {"name": name}
        if content is not None:
            attachment = self.add_attachment(name, content, content_type=content_type, user=user)
            values[f"{self.quirks.file_field}Id"] = attachment
        if collections:
            values[f"{self.quirks.knowledge_link}Ids"] = [self._knowledge(c) for c in collections]
        save = Save(user, silent=silent, forced=fields)
        row = self.store.create("CDokumente", values, save)
        self.did(None, "create", f"CDokumente/{row.values['id']}")
        return str(row.values["id"])

    def replace_file(
        self,
        record_id: str,
        content: bytes,
        name: str | None = None,
        *,
        user: User = PERSON,
        silent: bool = False,
        **fields: Any,
    ) -> str:
        """Give a document another file as a person; return the new attachment's id."""
        old = self.store.row("CDokumente", record_id).values
        field = self.quirks.file_field
        file_name = name or old[f"{field}Name"] or old["name"]
        attachment = self.add_attachment(file_name, content, user=user)
        self.edit(record_id, user=user, silent=silent, **{f"{field}Id": attachment, **fields})
        return attachment

    def add_knowledge(
        self,
        name: str,
        collection_id: str | None,
        aktivierungsstatus: str = "active",
        **fields: Any,
    ) -> str:
        """Create a knowledge base as a person; return its id."""
        values = {
            "name": name,
            "datenbankId": collection_id,
            "aktivierungsstatus": aktivierungsstatus,
            **fields,
        }
        return self.create("CAIKnowledge", values)

    def link(self, record_id: str, knowledge: str, *, silent: bool = False) -> None:
        """Link a document to a knowledge base (by its id or its collection id) as a person.

        A save, which webhooks tell; silent: the web client's "select", which nothing tells.
        """
        self._set_links(record_id, add=[self._knowledge(knowledge)], silent=silent)

    def unlink(self, record_id: str, knowledge: str, *, silent: bool = False) -> None:
        """Unlink a document from a knowledge base as a person; see `link`."""
        self._set_links(record_id, remove=[self._knowledge(knowledge)], silent=silent)

    # what a test asks

    def record(self, entity: str, record_id: str) -> dict[str, Any]:
        """Return a record with its latest values.

        Raises:
            KeyError: there is none, or it is deleted.
        """
        row = self.store.tables.get(entity, {}).get(record_id)
        if row is None or row.deleted:
            raise KeyError(f"{entity} {record_id}")
        return self.store.output(entity, row.values)

    def document(self, record_id: str) -> dict[str, Any]:
        """Return a document with its latest values; KeyError when it is gone."""
        return self.record("CDokumente", record_id)

    def records(self, entity: str) -> list[dict[str, Any]]:
        """Return all records of an entity type that are not deleted, oldest first."""
        return [self.store.output(entity, values) for values in self.store.all(entity)]

    def knowledge_of(self, record_id: str) -> list[str]:
        """Return the ids of the knowledge bases a document is linked to."""
        link = self.quirks.knowledge_link
        return [row["id"] for row in self.store.linked("CDokumente", record_id, link)]

    def junction(self, record_id: str, knowledge: str) -> dict[str, Any]:
        """Return the junction row of a document and a knowledge base; KeyError without one."""
        wanted = self._knowledge(knowledge)
        for row in self.store.junctions("CDokumente", record_id, self.quirks.knowledge_link):
            if row["cAIKnowledgeId"] == wanted:
                return row
        raise KeyError(f"{record_id} is not linked to {knowledge}")

    # webhooks

    def add_webhook(
        self,
        event: str,
        url: str,
        *,
        webhook_id: str | None = None,
        secret: str | None = None,
        skip_own: bool = False,
        user: User | None = None,
    ) -> str:
        """Register a webhook as an administrator; return its id.

        Args:
            event: "CDokumente.update".
            url: where it posts.
            webhook_id: a fixed id; a fresh one when absent.
            secret: a fixed secret; a random one when absent.
            skip_own: leave out what `user` did; without a user it has no effect.
            user: the API user it belongs to.
        """
        values = {"event": event, "url": url, "skipOwn": skip_own}
        if user is not None:
            values |= {"userId": user.id}
        forced = {"secretKey": secret} if secret else {}
        row = self.store.create("Webhook", values, Save(ADMIN, forced=forced))
        if webhook_id is not None:
            table = self.store.tables["Webhook"]
            del table[row.values["id"]]
            row.values["id"] = webhook_id
            table[webhook_id] = row
        self.did(None, "create", f"Webhook/{row.values['id']}")
        return str(row.values["id"])

    def due_deliveries(self) -> list[Delivery]:
        """Do one pass of the CRM's job; return the posts that are due, in order."""
        self.changes += 1
        return self.webhooks.due(self.clock.now(), self.quirks)

    def delivered(self, delivery: Delivery, status: int) -> None:
        """Note how a post ended: its status, 408 for too slow, 0 for no connection."""
        self.changes += 1
        self.webhooks.delivered(delivery, status, self.clock.now(), self.quirks)

    async def deliver_pass(
        self, post: Callable[[Delivery], Awaitable[int]]
    ) -> list[dict[str, Any]]:
        """Do one pass of the CRM's job and post what is due, one after another.

        Args:
            post: carries one delivery and returns its status, 408 for too slow, 0 for no
                connection.

        Returns:
            For each post: webhook_id, event, objects, attempt and status; None where the CRM
            itself refused to send.
        """
        done: list[dict[str, Any]] = []
        for delivery in self.due_deliveries():
            status = await self._delivered_by(post, delivery)
            done.append(
                {
                    "webhook_id": delivery.webhook_id,
                    "event": delivery.event,
                    "objects": len(delivery.items),
                    "attempt": delivery.attempt,
                    "status": status,
                }
            )
        return done

    async def _delivered_by(
        self, post: Callable[[Delivery], Awaitable[int]], delivery: Delivery
    ) -> int | None:
        if not self.address_allowed(delivery.url):
            self.webhooks.refused(delivery)
            return None
        struck = self.faults.strike("POST", f"/webhook/{delivery.event}", "deliver")
        for fault in struck:
            if fault.kind == "latency":
                await self.clock.sleep(fault.seconds())
        status = await post(delivery)
        kinds = {fault.kind for fault in struck}
        if "duplicate_delivery" in kinds:
            await post(delivery)
        if "lost_receipt" in kinds:
            status = 408
        self.delivered(delivery, status)
        return status

    # the simulator's own face

    def operation(self, request: SimRequest) -> str:
        """Return what is asked, without ids."""
        found = self._find(request)
        return found[0] if found else "unknown"

    def answer(self, request: SimRequest, call: Call, marks: Sequence[Fault]) -> SimResponse:
        """Do what is asked and return the answer."""
        try:
            found = self._find(request)
            path = request.path.removeprefix(BASE)
            user = self.access.user(request, path, self.clock.now())
            if found is None:
                return self.error(404, "Route not found.")
            answer = found[1](_Ask(request, user, _segments(request.path), call, marks))
        except Refusal as refusal:
            answer = self.error(refusal.status, refusal.reason)
            if refusal.body is not None:
                answer = self._json(refusal.body, refusal.status, reason=refusal.reason)
        except ValueError as error:
            answer = self.error(400, str(error))
        stamp = {"X-App-Timestamp": str(int(self.clock.now().timestamp()))}
        return SimResponse(answer.status, {**answer.headers, **stamp}, answer.body, answer.file)

    def error(self, status: int, message: str) -> SimResponse:
        """Return an error as EspoCRM does: the reason in a header, no body."""
        return SimResponse(status, {"X-Status-Reason": _header(message)} if message else {})

    def state(self) -> dict[str, Any]:
        """Return records, queue and contents' hashes."""
        return {
            **self.store.dump(),
            "webhooks": self.webhooks.dump(),
            "contents": self.stored.dump(),
            "now": self.clock.now().isoformat(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up an earlier state."""
        self.stored.load(state["contents"])
        self.store.load(state)
        self.reseed(int(state["number"]))
        self.store.use(self.quirks)
        self.webhooks.load(state["webhooks"])

    def reset(self) -> None:
        """Forget everything but the users."""
        self.store.clear()
        self.webhooks.clear()
        self.access.forget()
        self.forget()
        self.store.dice = self.dice
        self._seat_users()

    def quirk_list(self) -> list[dict[str, Any]]:
        """Return every switch."""
        return described(self.quirks)

    def switch(self, values: dict[str, Any]) -> None:
        """Switch quirks over."""
        self.quirks = switched(self.quirks, values)
        self.store.use(self.quirks)

    async def control(self, request: SimRequest) -> SimResponse | None:
        """Answer what only this simulator's control face has: edits and deliveries."""
        path = (request.method, request.path.removeprefix("/_sim").strip("/"))
        if path == ("POST", "edit"):
            try:
                return json_answer(self._person_edit(request))
            except Refusal as refusal:
                return json_answer({"error": refusal.reason or "refused"}, refusal.status)
        if path == ("POST", "deliver"):
            return await self._deliver_now(request)
        return None

    async def _deliver_now(self, request: SimRequest) -> SimResponse:
        if self.deliver is None:
            raise ValueError("nobody delivers here: this simulator runs without a server")
        passes = int(json_object(request.json() or {}).get("passes", 1))
        return json_answer({"delivered": await self.deliver(passes)})

    # an edit through the control face

    def _person_edit(self, request: SimRequest) -> dict[str, Any]:
        if (request.header("Content-Type") or "").startswith("application/octet-stream"):
            wanted: dict[str, Any] = {**dict(request.query), "content": request.read()}
        else:
            wanted = json_object(request.json())
            if "content_base64" in wanted:
                wanted["content"] = base64.b64decode(wanted.pop("content_base64"), validate=True)
            elif "text" in wanted:
                wanted["content"] = str(wanted.pop("text")).encode()
        action = wanted.get("action")
        acts: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "create": self._edit_create,
            "update": self._edit_update,
            "replace_file": self._edit_file,
            "link": self._edit_link,
            "unlink": self._edit_link,
            "relate_silently": self._edit_link,
            "unrelate_silently": self._edit_link,
            "delete": self._edit_delete,
            "restore": self._edit_restore,
        }
        if not isinstance(action, str) or action not in acts:
            raise ValueError(f"unknown action {action!r}; there are: {', '.join(sorted(acts))}")
        return acts[action](wanted)

    def _edit_create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        entity = wanted.get("entity", "CDokumente")
        values, silent = dict(wanted.get("values") or {}), bool(wanted.get("silent"))
        if entity != "CDokumente":
            return {"id": self.create(entity, values, silent=silent)}
        name = wanted.get("name") or values.pop("name", None) or "Dokument.txt"
        values.pop("name", None)
        made = self.add_document(
            name,
            wanted.get("content"),
            collections=wanted.get("collections") or (),
            silent=silent,
            **values,
        )
        return {"id": made}

    def _edit_update(self, wanted: dict[str, Any]) -> dict[str, Any]:
        entity, silent = wanted.get("entity", "CDokumente"), bool(wanted.get("silent"))
        values = dict(wanted.get("values") or {})
        save = Save(PERSON, silent=silent)
        changed = self.store.update(entity, wanted["id"], values, save)
        self.did(None, "update", f"{entity}/{wanted['id']}")
        return {"id": wanted["id"], "changed": list(changed)}

    def _edit_file(self, wanted: dict[str, Any]) -> dict[str, Any]:
        silent = bool(wanted.get("silent"))
        name = wanted.get("name")
        made = self.replace_file(wanted["id"], wanted["content"], name, silent=silent)
        return {"id": wanted["id"], "attachment_id": made}

    def _edit_link(self, wanted: dict[str, Any]) -> dict[str, Any]:
        act = self.unlink if wanted["action"].startswith("un") else self.link
        silent = wanted["action"].endswith("silently") or bool(wanted.get("silent"))
        act(wanted["id"], wanted["knowledge"], silent=silent)
        return {"id": wanted["id"], "knowledge": self.knowledge_of(wanted["id"])}

    def _edit_delete(self, wanted: dict[str, Any]) -> dict[str, Any]:
        entity, silent = wanted.get("entity", "CDokumente"), bool(wanted.get("silent"))
        self.delete(wanted["id"], entity=entity, silent=silent)
        return {"id": wanted["id"]}

    def _edit_restore(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.restore(wanted["id"], entity=wanted.get("entity", "CDokumente"))
        return {"id": wanted["id"]}

    # routes

    def _route_table(self) -> dict[tuple[str, str], tuple[str, Callable[[_Ask], SimResponse]]]:
        return {
            ("GET", "App/user"): ("app_user", self._on_user),
            ("GET", "Metadata"): ("metadata", self._on_metadata),
            ("POST", "Attachment"): ("upload_attachment", self._on_upload),
            ("GET", "Attachment/file/*"): ("download", self._on_download),
            ("POST", "Attachment/chunk/*"): ("upload_chunk", self._on_chunk),
            ("GET", "*"): ("list", self._on_list),
            ("POST", "*"): ("create", self._on_create),
            ("GET", "*/*"): ("read", self._on_read),
            ("PUT", "*/*"): ("update", self._on_update),
            ("PATCH", "*/*"): ("update", self._on_update),
            ("DELETE", "*/*"): ("delete", self._on_delete),
            ("GET", "*/*/*"): ("list_linked", self._on_list_linked),
            ("POST", "*/*/*"): ("link", self._on_link),
            ("DELETE", "*/*/*"): ("unlink", self._on_unlink),
        }

    def _find(self, request: SimRequest) -> tuple[str, Callable[[_Ask], SimResponse]] | None:
        path = _segments(request.path)
        if not request.path.startswith(BASE + "/") or not all(path):
            return None
        shapes = ["/".join(path), "/".join("*" * len(path))]
        if len(path) == 3:
            shapes.insert(0, "/".join([*path[:2], "*"]))
        known = ((request.method, shape) for shape in shapes)
        return next((self._routes[key] for key in known if key in self._routes), None)

    def _json(self, value: Any, status: int = 200, *, reason: str = "") -> SimResponse:
        headers = {"Content-Type": "application/json"}
        if reason:
            headers["X-Status-Reason"] = _header(reason)
        return SimResponse(status, headers, php_json(value))

    def _on_user(self, ask: _Ask) -> SimResponse:
        user = {"id": ask.user.id, "userName": ask.user.name, "type": ask.user.type}
        return self._json({"user": user, "acl": {}, "preferences": {}, "settings": {}})

    def _on_metadata(self, ask: _Ask) -> SimResponse:
        node: Any = metadata(self.store.definitions, self.quirks)
        for part in filter(None, (ask.request.parameter("key") or "").split(".")):
            node = node.get(part) if isinstance(node, dict) else None
        return self._json(node)

    def _on_read(self, ask: _Ask) -> SimResponse:
        entity, record_id = ask.path
        self.store.definition(entity)
        found = self.store.seen(entity, record_id)
        _refuse_others(entity, found, ask.user)
        return self._json(self.store.output(entity, found))

    def _on_list(self, ask: _Ask) -> SimResponse:
        (entity,) = ask.path
        self.store.definition(entity)
        rows = [row for row in self.store.all(entity) if _is_own(entity, row, ask.user)]
        return self._listed(ask, entity, rows)

    def _on_list_linked(self, ask: _Ask) -> SimResponse:
        entity, record_id, link = ask.path
        found = self.store.link(entity, link)
        self.store.seen(entity, record_id)
        return self._listed(ask, found.entity, self.store.linked(entity, record_id, link))

    def _on_create(self, ask: _Ask) -> SimResponse:
        (entity,) = ask.path
        self.store.definition(entity)
        values = ask.fields()
        if entity == "Webhook":
            self._check_webhook(ask.user, values)
        skip = ask.request.header("X-Skip-Duplicate-Check") == "true"
        save = ask.save(skip_duplicates=skip or bool(values.get("_skipDuplicateCheck")))
        row = self.store.create(entity, values, save)
        self.did(ask.call, "create", f"{entity}/{row.values['id']}", tuple(values))
        return self._json(self.store.output(entity, row.values))

    def _on_update(self, ask: _Ask) -> SimResponse:
        entity, record_id = ask.path
        self.store.definition(entity)
        _refuse_others(entity, self.store.seen(entity, record_id), ask.user)
        version = ask.request.header("X-Version-Number")
        save = ask.save(version=int(version) if version else None)
        changed = self.store.update(entity, record_id, ask.fields(), save)
        self.did(ask.call, "update", f"{entity}/{record_id}", changed)
        return self._json(self.store.output(entity, self.store.row(entity, record_id).values))

    def _on_delete(self, ask: _Ask) -> SimResponse:
        entity, record_id = ask.path
        self.store.definition(entity)
        _refuse_others(entity, self.store.row(entity, record_id).values, ask.user)
        self.store.delete(entity, record_id, ask.save())
        self.did(ask.call, "delete", f"{entity}/{record_id}")
        return self._json(True)

    def _on_link(self, ask: _Ask) -> SimResponse:
        entity, record_id, link = ask.path
        ids = _ids(ask.fields())
        new = self.store.relate(entity, record_id, link, ids, delay_of(ask.marks))
        if new:
            self.did(ask.call, "link", f"{entity}/{record_id}/{link}", new)
        return self._json(bool(ids))

    def _on_unlink(self, ask: _Ask) -> SimResponse:
        entity, record_id, link = ask.path
        ids = _ids(ask.fields())
        gone = self.store.unrelate(entity, record_id, link, ids)
        if gone:
            self.did(ask.call, "unlink", f"{entity}/{record_id}/{link}", gone)
        return self._json(bool(ids))

    def _listed(self, ask: _Ask, entity: str, records: Sequence[Mapping[str, Any]]) -> SimResponse:
        wanted = _list_query(ask.request)
        size = _whole(wanted.get("maxSize"), self.quirks.list_limit)
        if size > self.quirks.list_limit:
            limit = self.quirks.list_limit
            raise Refusal(403, f"Max size should not exceed {limit}. Use offset and limit.")
        where = Where(
            self.clock.now(),
            lambda record_id, link: [r["id"] for r in self.store.linked(entity, record_id, link)],
        )
        clauses = wanted.get("where") or wanted.get("whereGroup") or []
        if not isinstance(clauses, list):
            raise Refusal(400, "Bad where.")
        try:
            fitting = [
                record
                for record in records
                if all(where.fits(record, clause) for clause in clauses)
                and _text_fits(record, wanted)
            ]
        except TypeError as error:
            raise Refusal(400, "Bad where.") from error
        fitting = _ordered(fitting, wanted)
        start = _whole(wanted.get("offset"), 0)
        shown = fitting[start : start + size]
        total = len(fitting)
        if ask.request.header("X-No-Total") == "true" or wanted.get("q"):
            total = -1 if start + size < len(fitting) else -2
        chosen = _selected(wanted)
        listed = [self.store.output(entity, record) for record in shown]
        if chosen:
            listed = [{n: v for n, v in record.items() if n in chosen} for record in listed]
        return self._json({"total": total, "list": listed})

    # attachments

    def _on_upload(self, ask: _Ask) -> SimResponse:
        values = ask.fields()
        if not values.get("field") or not (values.get("relatedType") or values.get("parentType")):
            raise Refusal(400, "No `field` and `parentType`.")
        content: bytes | None = None
        if values.get("isBeingUploaded"):
            size = _whole(values.get("size"), 0)
            self._check_size(size)
        else:
            content = _decoded(values.get("file"))
            size = len(content)
            self._check_size(size)
        row = self.store.add_attachment(values, content, ask.save())
        attachment_id = str(row.values["id"])
        if content is None:
            self.store.uploading[attachment_id] = (size, b"")
        self.did(ask.call, "upload_attachment", f"Attachment/{attachment_id}")
        return self._json(self.store.output("Attachment", row.values))

    def _on_chunk(self, ask: _Ask) -> SimResponse:
        attachment_id = ask.path[2]
        row = self.store.row("Attachment", attachment_id)
        if attachment_id not in self.store.uploading:
            raise Refusal(403, "Attachment is not being uploaded.")
        size, so_far = self.store.uploading[attachment_id]
        so_far += _decoded(ask.request.read().decode("ascii", "replace"))
        if len(so_far) > size:
            raise Refusal(500, "File size mismatch.")
        self.store.uploading[attachment_id] = (size, so_far)
        if len(so_far) == size:
            del self.store.uploading[attachment_id]
            self.store.files[attachment_id] = self.stored.add(so_far).sha256
            row.values |= {"isBeingUploaded": False, "size": size}
        self.did(ask.call, "upload_chunk", f"Attachment/{attachment_id}")
        return self._json(True)

    def _on_download(self, ask: _Ask) -> SimResponse:
        attachment_id = ask.path[2]
        values = self.store.seen("Attachment", attachment_id)
        sha256 = self.store.files.get(attachment_id)
        if sha256 is None:
            raise Refusal(404, "File not found.")
        name = _header(str(values["name"])).replace('"', '\\"')
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        if values["type"]:
            headers["Content-Type"] = str(values["type"])
        return self.stored.answer(sha256, headers)

    def _check_size(self, size: int) -> None:
        if size > self.quirks.attachment_limit_mib * 1024 * 1024:
            raise Refusal(400, "File size exceeds the limit.")

    # helpers

    def _check_webhook(self, user: User, values: Mapping[str, Any]) -> None:
        mine = [row for row in self.store.all("Webhook") if row["userId"] == user.id]
        if user.type == "api" and len(mine) >= WEBHOOKS_PER_USER:
            raise Refusal(403, "Webhook count limit exceeded.")
        if not self.address_allowed(str(values.get("url") or "")):
            raise Refusal(403, "Not allowed URL.")

    def address_allowed(self, url: str) -> bool:
        """Return whether the CRM would post to an address: no internal one, unless allowed."""
        if not self.quirks.webhook_address_check:
            return True
        address = url.partition("://")[2].partition("/")[0]
        host = address.rpartition(":")[0] or address
        internal = (
            host == "localhost" or "." not in host or host.startswith(("127.", "10.", "192.168."))
        )
        return not internal or address in self.quirks.webhook_allowed_addresses

    def _registered(self) -> dict[str, Mapping[str, Any]]:
        return {row["id"]: row for row in self.store.all("Webhook")}

    def _row_exists(self, entity: str, record_id: str) -> bool:
        return self.store.exists(entity, record_id)

    def _drop_webhook(self, webhook_id: str) -> None:
        self.store.tables["Webhook"].pop(webhook_id, None)

    def _event(
        self, name: str, entity: str, record_id: str, payload: dict[str, Any], user: str | None
    ) -> None:
        self.webhooks.record(name, entity, record_id, payload, user)

    def _seat_users(self) -> None:
        table = self.store.tables.setdefault("User", {})
        for number, user in enumerate(self.users):
            values = {"id": user.id, "name": user.name, "userName": user.name, "type": user.type}
            table[user.id] = Row(-number, {**values, "isActive": True, "createdAt": None})

    def _knowledge(self, wanted: str) -> str:
        """Return a knowledge base's id for its id or collection id; make one where none is."""
        rows = self.store.all("CAIKnowledge")
        for row in rows:
            if wanted in {row["id"], row["datenbankId"]}:
                return str(row["id"])
        return self.add_knowledge(wanted, wanted)

    def _set_links(
        self,
        record_id: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        silent: bool = False,
    ) -> None:
        link = self.quirks.knowledge_link
        if silent:
            self.store.relate("CDokumente", record_id, link, add)
            self.store.unrelate("CDokumente", record_id, link, remove)
        else:
            now = [
                knowledge for knowledge in self.knowledge_of(record_id) if knowledge not in remove
            ]
            wanted = [*now, *(knowledge for knowledge in add if knowledge not in now)]
            values = {f"{link}Ids": wanted}
            self.store.update("CDokumente", record_id, values, Save(PERSON))
        self.did(None, "link", f"CDokumente/{record_id}/{link}")


def _is_own(entity: str, record: Mapping[str, Any], user: User) -> bool:
    """Return whether a user may see a record: webhooks and notifications are their user's alone."""
    if entity == "Notification":
        return bool(record["userId"] == user.id)
    if entity == "Webhook":
        return user.type == "admin" or (user.type == "api" and record["userId"] == user.id)
    return True


def _refuse_others(entity: str, record: Mapping[str, Any], user: User) -> None:
    if not _is_own(entity, record, user):
        raise Refusal(403, "No access.")


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix(BASE).strip("/").split("/"))


def _header(text: str) -> str:
    return "".join(sign for sign in text if sign.isprintable())


def _ids(body: Mapping[str, Any]) -> list[str]:
    if body.get("id"):
        return [str(body["id"])]
    ids = body.get("ids") or []
    if not isinstance(ids, list):
        raise Refusal(400, "Bad ids.")
    return [str(entry) for entry in ids]


def _decoded(file: Any) -> bytes:
    if not isinstance(file, str) or "," not in file:
        raise Refusal(400, "Bad file contents.")
    try:
        return base64.b64decode(file.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, "Bad file contents.") from error


def _list_query(request: SimRequest) -> dict[str, Any]:
    wanted = php_query(request.query)
    if "searchParams" in wanted:
        more = (
            json.loads(wanted["searchParams"]) if isinstance(wanted["searchParams"], str) else None
        )
        if not isinstance(more, dict):
            raise Refusal(400, "Bad searchParams.")
        wanted |= more
    return wanted


def _whole(value: Any, default: int) -> int:
    """Return a number of a query or a body; what is no number answers 400."""
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, int | str) or int(value) < 0:
        raise Refusal(400, "Not a number.")
    return int(value)


def _selected(wanted: Mapping[str, Any]) -> set[str]:
    text = wanted.get("select") or wanted.get("attributeSelect") or ""
    names = text if isinstance(text, list) else str(text).split(",")
    chosen = {name.strip() for name in names if name.strip()}
    return {*chosen, "id"} if chosen else set()


def _text_fits(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    text = str(wanted.get("textFilter") or wanted.get("q") or "").strip("*%").casefold()
    return not text or text in str(record.get("name") or "").casefold()


def _ordered(records: list[Any], wanted: Mapping[str, Any]) -> list[Any]:
    order_by = wanted.get("orderBy") or wanted.get("sortBy") or "createdAt"
    order = str(wanted.get("order") or "").lower()
    descending = order == "desc" or (not order and order_by == "createdAt")
    if records and order_by not in records[0]:
        if wanted.get("orderBy"):
            raise Refusal(400, f"Order by {_header(str(order_by))} is not possible.")
        return records

    def key(record: Mapping[str, Any]) -> tuple[Any, ...]:
        value = record[str(order_by)]
        kind = 0 if value is None else 1 if isinstance(value, int | float) else 2
        return kind, value if kind == 1 else str(value or ""), record["id"]

    return sorted(records, key=key, reverse=descending)


def _mime(name: str) -> str:
    kinds = {
        "pdf": "application/pdf",
        "txt": "text/plain",
        "md": "text/markdown",
        "html": "text/html",
        "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "exe": "application/x-msdownload",
    }
    return kinds.get(name.rpartition(".")[2].lower(), "application/octet-stream")
