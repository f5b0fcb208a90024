"""Advoware's three faces behind one port: configurator, security gateway, and the firm's API."""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

from bitbylaw_simulators.advoware import probe
from bitbylaw_simulators.advoware.gateway import Firm, Gateway, Token, fingerprint
from bitbylaw_simulators.advoware.quirks import AdvowareQuirks
from bitbylaw_simulators.advoware.refusal import Refusal
from bitbylaw_simulators.advoware.store import Store
from bitbylaw_simulators.advoware.tables import (
    ADRESSEN,
    BANKVERBINDUNGEN,
    BETEILIGTE,
    CONTACT_FIELDS,
    KOMMUNIKATIONEN,
    MITARBEITER,
    RESOURCES,
    TERMINE,
    URLAUBE,
    Resource,
    komm_art,
)
from bitbylaw_simulators.advoware.termine import derived, within, written
from bitbylaw_simulators.calls import Call
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.control import json_object
from bitbylaw_simulators.faults import Fault
from bitbylaw_simulators.quirks import described, switched
from bitbylaw_simulators.simulator import Simulator, delay_of
from bitbylaw_simulators.wire import SimRequest, SimResponse, TornAnswer, json_answer

BERLIN = ZoneInfo("Europe/Berlin")
"""Where the firm's clocks hang."""

KEPT_DETAILS = 10_000
KEPT_BODIES = 32 * 1024 * 1024
"""Calls whose details the log keeps, and bytes of their bodies; of older ones it keeps the hash."""

_HAND = "SB"
"""Who edits at the screen, unless somebody else is named."""

_API = re.compile(r"(?:/relay|/connector)?/api/v1/(?:(advonet)/)?(.+)", re.IGNORECASE)
_PAGING = ("limit", "offset")
_UNSUPPORTED = "The requested resource does not support this."
_EMBEDDED = {
    "kommunikation": KOMMUNIKATIONEN,
    "adressen": ADRESSEN,
    "bankverbindungen": BANKVERBINDUNGEN,
}
_SEARCH = ("name", "vorname", "kurzname", "rechtsform", "geburtsdatum")


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call on its way.

    Attributes:
        user: whose token it carries.
        ids: what the path holds in the places of ids.
        call: its log entry.
        marks: faults that stay with the result.
    """

    request: SimRequest
    user: str
    ids: tuple[str, ...]
    call: Call
    marks: Sequence[Fault]

    def fields(self) -> dict[str, Any]:
        try:
            body = self.request.json()
        except (ValueError, RecursionError):
            raise Refusal(400, "The request body is not JSON.") from None
        if not isinstance(body, dict):
            raise Refusal(400, "The request body must be an object.")
        return body


_Act = Callable[[_Ask], SimResponse]


class Advoware(Simulator):
    """Advoware as it behaves.

    Args:
        clock: its time; a virtual one when absent.
        quirks: its doubtful manners.
        seed: of tokens and row versions; None makes every run differ.
        firm: who may come in.
        url: where it is reached; taken from the `Host` header when empty.
    """

    name = "advoware"

    def __init__(
        self,
        clock: SimClock | None = None,
        *,
        quirks: AdvowareQuirks | None = None,
        seed: int | None = 0,
        firm: Firm | None = None,
        url: str = "",
    ) -> None:
        super().__init__(clock, None, seed)
        self.quirks = quirks or AdvowareQuirks()
        self.firm = firm or Firm()
        self.url = url.rstrip("/")
        self.gateway = Gateway(self.firm, lambda: self.quirks, self.dice)
        self.store = Store(self.clock.now, lambda: self.quirks, self.dice)
        self._bodies: deque[tuple[Call, int]] = deque()
        self._bodies_size = 0
        self._fleeting = 0
        self._routes = self._route_table()

    # what a test says and asks

    def add(
        self, resource: str, *, bet_nr: int | None = None, user: str = _HAND, **values: Any
    ) -> int:
        """Make a record as an employee does at the screen; return its number.

        Args:
            resource: `Beteiligte`, `Kommunikationen`, `Adressen`, `Bankverbindungen`, `Termine`,
                `Mitarbeiter` or `Urlaube`.
            bet_nr: whose record, where it lies below a Beteiligter.
            user: initials of the employee.
            **values: its fields.
        """
        kind = _resource(resource)
        if kind.below and (bet_nr is None or self.store.find(BETEILIGTE, bet_nr) is None):
            raise ValueError(f"{resource} needs the betNr of a Beteiligter that is there")
        made = self.store.create(kind, _known(kind, values), user, bet_nr=bet_nr)
        self.did(None, f"create_{kind.one}", self._target(kind, made))
        return int(made[kind.key])

    def edit(
        self, resource: str, number: int, *, user: str = _HAND, **values: Any
    ) -> dict[str, Any]:
        """Change any fields of a record as an employee does at the screen; return the record."""
        kind = _resource(resource)
        made, _ = self.store.update(kind, number, _known(kind, values), user, by_hand=True)
        self.did(None, f"update_{kind.one}", self._target(kind, made))
        return made

    def remove(self, resource: str, number: int, *, user: str = _HAND) -> None:
        """Delete a record as an employee does at the screen."""
        kind = _resource(resource)
        target = self._target(kind, self.store.tables[kind.name][number].values)
        self.store.delete(kind, number, user)
        self.did(None, f"delete_{kind.one}", target)

    def record(self, resource: str, number: int) -> dict[str, Any]:
        """Return a record as the database has it, whatever reads show."""
        return dict(self.store.tables[_resource(resource).name][number].values)

    def records(self, resource: str, **fixed: Any) -> list[dict[str, Any]]:
        """Return the records of a kind that have these values, by number."""
        table = self.store.tables[_resource(resource).name]
        rows = [table[key].values for key in sorted(table)]
        return [dict(r) for r in rows if all(r[name] == value for name, value in fixed.items())]

    # the simulator's own face

    async def handle(self, request: SimRequest) -> SimResponse:
        """Answer one call, with the time as Advoware's clock tells it.

        Behind the relay it takes as long as the way takes.
        """
        if self.quirks.relay_seconds > 0 and _API.fullmatch(request.path):
            await self.clock.sleep(self.quirks.relay_seconds)
        try:
            return self._dated(await super().handle(request))
        except TornAnswer as torn:
            raise TornAnswer(self._dated(torn.answer), torn.sent) from None

    def _dated(self, answer: SimResponse) -> SimResponse:
        shown = self.clock.now() + timedelta(seconds=self.quirks.clock_skew_seconds)
        date = {"Date": format_datetime(shown, usegmt=True)}
        return replace(answer, headers={**date, **answer.headers})

    def operation(self, request: SimRequest) -> str:
        """Return what is asked, without ids."""
        if _is_configurator(request):
            return "configurator"
        if _is_token(request):
            return "token"
        found = self._find(request)
        return found[0] if found else "unknown"

    def answer(self, request: SimRequest, call: Call, marks: Sequence[Fault]) -> SimResponse:
        """Do what is asked and return the answer."""
        try:
            if call.operation == "configurator":
                kanzlei = request.parameter("Kanzlei") or ""
                return json_answer(self.gateway.addresses(kanzlei, self._base(request)))
            if call.operation == "token":
                return self._on_token(request)
        except Refusal as refusal:
            return self._gateway_error(refusal)
        try:
            return self._answered(request, call, marks)
        except Refusal as refusal:
            return self._api_error(refusal)

    def error(self, status: int, message: str) -> SimResponse:
        """Return an error of the API in the shape the quirk names."""
        if self.quirks.error_shape == "text":
            return _text(status, message)
        return json_answer({"message": message}, status)

    def sent(self, request: SimRequest, call: Call) -> dict[str, Any] | None:
        """Return what arrived, byte for byte; of token requests no body, of tokens a hash."""
        kept = {**probe.told(request, call.digest), "token": None}
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            kept["token"] = fingerprint(token)
        if request.path.lower().endswith("/token"):
            # wherever it was sent to: it carries a password
            kept["body_base64"] = kept["sha256"] = None
        self._bound(call, len(kept["body_base64"] or ""))
        return kept

    def _bound(self, call: Call, size: int) -> None:
        """Let the details in the log stay within their limits."""
        self._bodies.append((call, size))
        self._bodies_size += size
        while self._bodies_size > KEPT_BODIES or len(self._bodies) > KEPT_DETAILS:
            oldest, freed = self._bodies.popleft()
            self._bodies_size -= freed
            oldest.sent = None

    def state(self) -> dict[str, Any]:
        """Return all tables; tokens by their hash."""
        return {
            "tables": self.store.dump(),
            "numbers": self.store.numbers,
            "tokens": {
                digest: {**asdict(token), "ends": token.ends.isoformat()}
                for digest, token in self.gateway.tokens.items()
            },
            "now": self.clock.now().isoformat(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up an earlier state."""
        self.store.load(state["tables"], state["numbers"])
        self.gateway.tokens = {
            digest: Token(entry["user"], datetime.fromisoformat(entry["ends"]), entry["revoked"])
            for digest, entry in state["tokens"].items()
        }
        self.reseed(hash_of(state["tables"]))

    def reset(self) -> None:
        """Forget everything; quirks stay as they are."""
        self.store.forget()
        self.gateway.forget()
        self._bodies.clear()
        self._bodies_size = 0
        self._fleeting = 0
        self.forget()
        self.gateway.dice = self.store.dice = self.dice

    def quirk_list(self) -> list[dict[str, Any]]:
        """Return every switch."""
        return described(self.quirks)

    def switch(self, values: dict[str, Any]) -> None:
        """Switch quirks over."""
        self.quirks = switched(self.quirks, values)

    async def control(self, request: SimRequest) -> SimResponse | None:
        """Answer the control paths that only Advoware has: edits at the screen, and tokens' end."""
        key = (request.method, request.path.removeprefix("/_sim").strip("/"))
        if key == ("POST", "edit"):
            return self._edited(json_object(request.json()))
        if key == ("POST", "revoke"):
            wanted = json_object(request.json() or {})
            ended = self.gateway.revoke(user=wanted.get("user"))
            self.changes += 1
            return json_answer({"revoked": ended})
        return None

    def _edited(self, wanted: dict[str, Any]) -> SimResponse:
        unknown = set(wanted) - {"action", "resource", "betNr", "number", "values", "user"}
        if unknown:
            raise ValueError(f"unknown in edit: {', '.join(sorted(unknown))}")
        action, resource = wanted.get("action"), str(wanted.get("resource"))
        values, user = json_object(wanted.get("values", {})), str(wanted.get("user", _HAND))
        try:
            if action == "create":
                kind = _resource(resource)
                if kind.below and type(wanted.get("betNr")) is not int:
                    raise ValueError(f"{resource} needs betNr")
                number = self.add(resource, bet_nr=wanted.get("betNr"), user=user, **values)
                return json_answer(self.record(resource, number))
            number = int(wanted["number"])
            if action == "update":
                return json_answer(self.edit(resource, number, user=user, **values))
            if action == "delete":
                self.remove(resource, number, user=user)
                return json_answer({"deleted": number})
        except Refusal as refusal:
            raise ValueError(refusal.message) from None
        raise ValueError("action is create, update or delete")

    # the gateway

    def _base(self, request: SimRequest) -> str:
        return self.url or f"http://{request.header('Host') or 'advoware.test'}"

    def _on_token(self, request: SimRequest) -> SimResponse:
        try:
            body = request.json()
        except (ValueError, RecursionError):
            raise Refusal(400, "The request body is not JSON.") from None
        answer = self.gateway.log_in(body, self.clock.now())
        self.changes += 1
        return json_answer(answer)

    def _gateway_error(self, refusal: Refusal) -> SimResponse:
        if self.quirks.gateway_errors == "text":
            return _text(refusal.status, refusal.message)
        return json_answer({"message": refusal.message}, refusal.status)

    def _api_error(self, refusal: Refusal) -> SimResponse:
        answer = self.error(refusal.status, refusal.message)
        if refusal.status == 200:
            answer = _text(200, refusal.message)
        more = {"Allow": refusal.allow} if refusal.allow else {}
        if refusal.status == 401:
            more["WWW-Authenticate"] = "Bearer"
        return SimResponse(answer.status, {**answer.headers, **more}, answer.body)

    # routes

    def _route_table(self) -> list[tuple[str, re.Pattern[str], str, _Act]]:
        one = "Beteiligte/([^/]+)"
        table: list[tuple[str, str, str, _Act]] = [
            ("GET", "Beteiligte", "list_beteiligte", self._on_list_beteiligte),
            ("POST", "Beteiligte", "create_beteiligter", self._on_create_beteiligter),
            ("GET", one, "read_beteiligter", self._on_read_beteiligter),
            ("PUT", one, "update_beteiligter", self._on_update_beteiligter),
            ("DELETE", one, "delete_beteiligter", self._on_delete_beteiligter),
            ("GET", "Termine", "list_termine", self._on_termine),
            ("POST", "Termine", "create_termin", self._on_create_termin),
            ("PUT", "Termine", "update_termin", self._on_update_termin),
            ("DELETE", "Termine", "delete_termin", self._on_delete_termin),
            ("GET", "appointments", "list_termine", self._on_termine),
            ("POST", "appointments", "create_termin", self._on_create_termin),
            ("GET", "appointments/([^/]+)", "read_termin", self._on_termine),
            ("PUT", "appointments/([^/]+)", "update_termin", self._on_update_termin),
            ("DELETE", "appointments/([^/]+)", "delete_termin", self._on_delete_termin),
            ("GET", "(?:Mitarbeiter|employees)", "list_mitarbeiter", self._on_list_mitarbeiter),
            ("GET", r"license/KuerzelForProduct/(\d+)", "list_kuerzel", self._on_kuerzel),
        ]
        for kind in (entry for entry in RESOURCES.values() if entry.below):
            rows = f"{one}/{kind.name}"
            row = f"{rows}/([^/]+)"
            table += [
                ("GET", rows, f"list_{kind.name.lower()}", self._listing(kind)),
                ("POST", rows, f"create_{kind.one}", self._creating(kind)),
                ("PUT", row, f"update_{kind.one}", self._updating(kind)),
                ("DELETE", row, f"delete_{kind.one}", self._deleting(kind)),
            ]
        return [
            (verb, re.compile(path, re.IGNORECASE), name, act) for verb, path, name, act in table
        ]

    def _resource_path(self, request: SimRequest) -> str | None:
        found = _API.fullmatch(request.path)
        if found is None:
            return None
        prefix = "advonet" if found[1] else "plain"
        path = found[2].rstrip("/")
        logical = path.lower().startswith(("employees", "appointments"))
        if self.quirks.path_prefix not in {"both", prefix} or (
            logical and not self.quirks.logical_names
        ):
            return None
        return path

    def _find(self, request: SimRequest) -> tuple[str, tuple[str, ...], _Act] | None:
        path = self._resource_path(request)
        if path is None:
            return None
        if path.startswith("Sim/"):
            probed = path.removeprefix("Sim/")
            return "probe", (), lambda ask: probe.answer(ask.request, probed, ask.call.digest)
        for verb, pattern, name, act in self._routes:
            found = pattern.fullmatch(path)
            if verb == request.method and found:
                return name, found.groups(), act
        return None

    def _answered(self, request: SimRequest, call: Call, marks: Sequence[Fault]) -> SimResponse:
        if _API.fullmatch(request.path) is None:
            raise Refusal(404, "The resource was not found.")
        user = self.gateway.user(request.header("Authorization"), self.clock.now())
        if self.quirks.connector_url and not request.path.startswith("/connector/"):
            raise Refusal(503, f"Die Datenbank {self.firm.database} ist nicht angemeldet.")
        self.gateway.check_connector()
        found = self._find(request)
        if found is None:
            path = self._resource_path(request) or ""
            verbs = [verb for verb, pattern, _, _ in self._routes if pattern.fullmatch(path)]
            if verbs:
                allow = ", ".join(verbs)
                raise Refusal(405, _UNSUPPORTED, allow=allow)
            raise Refusal(404, "The resource was not found.")
        _, ids, act = found
        return act(_Ask(request, user, ids, call, marks))

    # Beteiligte

    def _on_list_beteiligte(self, ask: _Ask) -> SimResponse:
        wanted = self._parameters(ask.request, *_SEARCH)
        rows = [
            row
            for row in self.store.rows(BETEILIGTE)
            if all(
                str(row[name] or "").lower().startswith(wanted[name].lower())
                for name in _SEARCH
                if name in wanted
            )
        ]
        return self._list([self._party(row) for row in rows], wanted)

    def _on_read_beteiligter(self, ask: _Ask) -> SimResponse:
        self._parameters(ask.request)
        row = self._find_row(BETEILIGTE, ask.ids[0])
        return self._one(None if row is None else self._party(row))

    def _on_create_beteiligter(self, ask: _Ask) -> SimResponse:
        return self._created(BETEILIGTE, ask, None)

    def _on_update_beteiligter(self, ask: _Ask) -> SimResponse:
        return self._updated(BETEILIGTE, ask, self._there(BETEILIGTE, ask.ids[0]))

    def _on_delete_beteiligter(self, ask: _Ask) -> SimResponse:
        row = self._there(BETEILIGTE, ask.ids[0])
        if self.quirks.delete_beteiligte == "403":
            raise Refusal(403, "Forbidden")
        return self._deleted(BETEILIGTE, ask, row)

    def _party(self, row: Mapping[str, Any]) -> dict[str, Any]:
        number = row["betNr"]
        told = self._stamped(row, "angelegtAm", "geaendertAm")
        contacts = self.store.rows(KOMMUNIKATIONEN, betNr=number)
        if self.quirks.contact_fields:
            told |= {
                name: next((c["tlf"] for c in contacts if c["kommKz"] == kind and c["tlf"]), None)
                for name, kind in CONTACT_FIELDS.items()
            }
        below = {
            name: self._shown_below(kind, number)
            for name, kind in _EMBEDDED.items()
            if name in self.quirks.embedded
        }
        return told | below

    def _shown_below(self, kind: Resource, bet_nr: int) -> list[dict[str, Any]]:
        """Return what reads show below a Beteiligter."""
        rows = self.store.rows(kind, betNr=bet_nr)
        if kind is KOMMUNIKATIONEN:
            return [self._contact(row) for row in rows]
        if kind is ADRESSEN and self.quirks.address_index == "position":
            return [{**row, "reihenfolgeIndex": place} for place, row in enumerate(rows, start=1)]
        return rows

    def _contact(self, row: dict[str, Any]) -> dict[str, Any]:
        manner = self.quirks.komm_kz
        if manner == "real" or (manner == "some" and row["id"] % 2):
            return row
        return {**row, "kommKz": 0, "kommArt": komm_art(0)}

    # what lies below a Beteiligter

    def _listing(self, kind: Resource) -> _Act:
        def act(ask: _Ask) -> SimResponse:
            wanted = self._parameters(ask.request)
            number = self._there(BETEILIGTE, ask.ids[0])["betNr"]
            if kind is KOMMUNIKATIONEN and not self.quirks.list_kommunikationen:
                raise Refusal(405, _UNSUPPORTED, allow="POST")
            return self._list(self._shown_below(kind, number), wanted)

        return act

    def _creating(self, kind: Resource) -> _Act:
        def act(ask: _Ask) -> SimResponse:
            return self._created(kind, ask, self._there(BETEILIGTE, ask.ids[0])["betNr"])

        return act

    def _updating(self, kind: Resource) -> _Act:
        def act(ask: _Ask) -> SimResponse:
            row = self._below(kind, ask)
            self._refuse_bank_changes(kind)
            return self._updated(kind, ask, row)

        return act

    def _deleting(self, kind: Resource) -> _Act:
        def act(ask: _Ask) -> SimResponse:
            row = self._below(kind, ask)
            self._refuse_bank_changes(kind)
            if kind is not BANKVERBINDUNGEN and self.quirks.delete_below == "403":
                raise Refusal(403, "Forbidden")
            return self._deleted(kind, ask, row)

        return act

    def _refuse_bank_changes(self, kind: Resource) -> None:
        if kind is BANKVERBINDUNGEN and self.quirks.bank_changes != "allowed":
            status = int(self.quirks.bank_changes)
            allow = "GET, POST" if status == 405 else ""
            raise Refusal(status, _UNSUPPORTED, allow=allow)

    def _below(self, kind: Resource, ask: _Ask) -> dict[str, Any]:
        number = self._there(BETEILIGTE, ask.ids[0])["betNr"]
        key = self.quirks.address_key if kind is ADRESSEN else "id"
        rows = self._shown_below(kind, number)
        found = next((row for row in rows if str(row[key]) == ask.ids[1]), None)
        if found is None:
            raise self._missing()
        return found

    # Termine

    def _on_termine(self, ask: _Ask) -> SimResponse:
        wanted = self._parameters(ask.request, "frnr", "from", "to", "kuerzel")
        number = ask.ids[0] if ask.ids else wanted.get("frnr")
        if number is not None:
            row = self._find_row(TERMINE, number)
            return self._one(None if row is None else self._termin(row))
        window = (wanted.get("from"), wanted.get("to"), wanted.get("kuerzel"))
        rows = self.store.rows(TERMINE)
        special: list[dict[str, Any]] = []
        if self.quirks.derived_rows:
            special = derived(rows, self.store.rows(URLAUBE), self._derived_number)
        found = within([*rows, *special], *window)
        found.sort(key=lambda row: (row["datum"], row.get("uhrzeitVon") or "", -row["frNr"]))
        return self._list([self._termin(row) for row in found], wanted)

    def _derived_number(self, origin: int, special: int) -> int:
        if self.quirks.derived_numbers == "stable":
            return -(origin * 10 + special)
        self._fleeting += 1
        return -(2**30 + self._fleeting)

    def _termin(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return written(self._stamped(row, "zuletztGeaendertAm"), self.quirks)

    def _on_create_termin(self, ask: _Ask) -> SimResponse:
        return self._created(TERMINE, ask, None)

    def _on_update_termin(self, ask: _Ask) -> SimResponse:
        return self._updated(TERMINE, ask, self._there(TERMINE, self._frnr(ask)))

    def _on_delete_termin(self, ask: _Ask) -> SimResponse:
        number = self._frnr(ask)
        if number.startswith("-"):
            if self.quirks.derived_delete == "ignored":
                return SimResponse(200)
            raise Refusal(404, "Der Datensatz wurde nicht gefunden.")
        row = self._find_row(TERMINE, number)
        if row is None:
            if self.quirks.delete_unknown == "200":
                return SimResponse(200)
            raise Refusal(404, "Der Datensatz wurde nicht gefunden.")
        return self._deleted(TERMINE, ask, row)

    def _frnr(self, ask: _Ask) -> str:
        number = ask.ids[0] if ask.ids else self._parameters(ask.request, "frnr").get("frnr")
        if number is None:
            raise Refusal(400, "Der Parameter frnr fehlt.")
        return number

    # Mitarbeiter

    def _on_list_mitarbeiter(self, ask: _Ask) -> SimResponse:
        wanted = self._parameters(ask.request)
        return self._list(self.store.rows(MITARBEITER), wanted)

    def _on_kuerzel(self, ask: _Ask) -> SimResponse:
        rows = self.store.rows(MITARBEITER, aktiv=True)
        return json_answer([row["kuerzel"] for row in rows])

    # what all resources share

    def _created(self, kind: Resource, ask: _Ask, bet_nr: int | None) -> SimResponse:
        given = self._accepted(kind, ask.fields())
        hidden = delay_of(ask.marks)
        made = self.store.create(kind, given, ask.user, bet_nr=bet_nr, hidden=hidden)
        self.did(ask.call, f"create_{kind.one}", self._target(kind, made))
        status = int(self.quirks.create_status)
        if kind is TERMINE and self.quirks.created_termin != "row":
            bare = self.quirks.created_termin == "bare"
            return json_answer(
                made["frNr"] if bare else {self.quirks.frnr_key: made["frNr"]}, status
            )
        return json_answer(self._shape(self._told(kind, made)), status)

    def _updated(self, kind: Resource, ask: _Ask, row: Mapping[str, Any]) -> SimResponse:
        given = self._accepted(kind, ask.fields())
        held = self.store.tables[kind.name][row[kind.key]].values["rowId"]
        self._check_row_id(kind, given.get("rowId"), held)
        made, changed = self.store.update(
            kind, row[kind.key], given, ask.user, hidden=delay_of(ask.marks)
        )
        shown = [name for name in changed if name not in {"rowId", "uhrzeitBisTicks"}]
        self.did(ask.call, f"update_{kind.one}", self._target(kind, made), shown)
        if self.quirks.update_answer == "empty":
            return SimResponse(204)
        return json_answer(self._shape(self._told(kind, made)))

    def _accepted(self, kind: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        given = kind.accepted(body)
        stamp = given.pop("zuletztGeaendertAm", None)
        if stamp and self.quirks.termin_stamp == "client":
            given["zuletztGeaendertAm"] = _instant(stamp)
        return given

    def _deleted(self, kind: Resource, ask: _Ask, row: Mapping[str, Any]) -> SimResponse:
        self.store.delete(kind, row[kind.key], ask.user)
        self.did(ask.call, f"delete_{kind.one}", self._target(kind, row))
        return SimResponse(200)

    def _check_row_id(self, kind: Resource, given: str | None, held: str) -> None:
        if given is None:
            if kind.name in self.quirks.row_id_required:
                raise Refusal(400, "Das Feld rowId fehlt.")
        elif given != held and self.quirks.stale_row_id != "accepted":
            raise Refusal(
                int(self.quirks.stale_row_id),
                "Der Datensatz wurde zwischenzeitlich von einem anderen Benutzer geändert.",
            )

    def _told(self, kind: Resource, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as the answer to a write shows it, with its real `kommKz`."""
        if kind is BETEILIGTE:
            return self._party(row)
        return self._termin(row) if kind is TERMINE else dict(row)

    def _target(self, kind: Resource, row: Mapping[str, Any]) -> str:
        above = f"Beteiligte/{row['betNr']}/" if kind.below else ""
        return f"{above}{kind.name}/{row[kind.key]}"

    def _find_row(self, kind: Resource, number: str) -> dict[str, Any] | None:
        return (
            self.store.find(kind, int(number)) if number.isdecimal() and len(number) < 19 else None
        )

    def _there(self, kind: Resource, number: str) -> dict[str, Any]:
        row = self._find_row(kind, number)
        if row is None:
            raise self._missing()
        return row

    def _missing(self) -> Refusal:
        status = 500 if self.quirks.unknown_id == "500" else 404
        return Refusal(status, "Der Datensatz wurde nicht gefunden.")

    def _stamped(self, row: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {**row, **{name: self._stamp(row[name]) for name in names}}

    def _stamp(self, text: str | None) -> str | None:
        if text is None:
            return None
        moment = datetime.fromisoformat(text)
        local = self.quirks.stamps == "local"
        if local:
            moment = moment.astimezone(BERLIN)
        fraction = f".{moment.microsecond // 1000:03d}" if self.quirks.stamp_fraction else ""
        return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{'' if local else 'Z'}"

    def _parameters(self, request: SimRequest, *known: str) -> dict[str, str]:
        """Return the query parameters that have an effect.

        Raises:
            Refusal: 400, one is unknown and the quirk says so.
        """
        names = {name: name for name in (*known, *_PAGING)}
        if self.quirks.filter_case == "any":
            names |= {name.lower(): name for name in names}
        found: dict[str, str] = {}
        for given, value in request.query:
            name = names.get(given.lower() if self.quirks.filter_case == "any" else given)
            if name is None and self.quirks.unknown_parameters == "400":
                raise Refusal(400, f"Der Parameter {given} ist unbekannt.")
            if name is not None and name not in self.quirks.ignored_filters:
                found[name] = value
        return found

    def _list(self, rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> SimResponse:
        total = len(rows)
        start = _count(wanted, "offset", 0)
        rows = rows[start : start + _count(wanted, "limit", total)]
        if self.quirks.list_cap:
            rows = rows[: self.quirks.list_cap]
        shaped = self._shape(list(rows))
        if self.quirks.list_envelope == "data":
            return json_answer(self._shape({"data": list(rows), "total": total}))
        if not rows and self.quirks.empty_list == "404":
            raise Refusal(404, "Es wurden keine Datensätze gefunden.")
        return json_answer(None if not rows and self.quirks.empty_list == "null" else shaped)

    def _one(self, row: Mapping[str, Any] | None) -> SimResponse:
        listed = self.quirks.single_record == "list"
        if row is None:
            if self.quirks.unknown_id == "empty":
                return json_answer([] if listed else None)
            raise self._missing()
        return json_answer(self._shape([row] if listed else row))

    def _shape(self, value: Any) -> Any:
        """Write keys, and values that are not there, as the quirks say."""
        if isinstance(value, Mapping):
            return {
                self._key(name): self._shape(entry)
                for name, entry in value.items()
                if entry is not None or self.quirks.null_keys
            }
        return [self._shape(entry) for entry in value] if isinstance(value, list) else value

    def _key(self, name: str) -> str:
        return name[0].upper() + name[1:] if self.quirks.key_case == "pascal" else name


def _known(kind: Resource, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked values; what an API ignores is refused here, because a test misspelt it."""
    unknown = [name for name in values if kind.column(name) is None]
    if unknown:
        raise ValueError(f"{kind.name} has no field {', '.join(unknown)}")
    return kind.accepted(values)


def _resource(name: str) -> Resource:
    if name not in RESOURCES:
        raise ValueError(f"unknown resource {name!r}; there are: {', '.join(RESOURCES)}")
    return RESOURCES[name]


def _instant(text: str) -> str:
    """Return a stamp as the store keeps it; one without a zone is German wall clock."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(400, "Der Wert des Feldes zuletztGeaendertAm ist ungültig.") from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=BERLIN)
    return zoned.astimezone(UTC).isoformat(timespec="milliseconds")


def _is_configurator(request: SimRequest) -> bool:
    return request.method == "GET" and request.path.lower() == "/advonetconfigurator/api/url"


def _is_token(request: SimRequest) -> bool:
    path = request.path.lower().removeprefix("/security")
    return request.method == "POST" and path == "/api/v1/token"


def _text(status: int, message: str) -> SimResponse:
    return SimResponse(status, {"Content-Type": "text/plain; charset=utf-8"}, message.encode())


def _count(wanted: Mapping[str, str], name: str, otherwise: int) -> int:
    text = wanted.get(name)
    if text is None:
        return otherwise
    if not text.isdecimal() or len(text) > 9:
        raise Refusal(400, f"Der Parameter {name} ist ungültig.")
    return int(text)


def hash_of(tables: Mapping[str, Any]) -> int:
    """Return a number that differs when the tables do; new row versions are thrown from it."""
    return int.from_bytes(hashlib.sha256(repr(tables).encode()).digest()[:8], "big")
