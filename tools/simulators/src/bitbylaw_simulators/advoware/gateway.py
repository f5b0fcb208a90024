"""Who may come in: the configurator, token requests and their signature, tokens and their end."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from bitbylaw_simulators.advoware.quirks import AdvowareQuirks
from bitbylaw_simulators.advoware.refusal import Refusal

PRODUCT = 64
"""The product of third parties."""

_REMEMBERED = timedelta(hours=1)
"""How long an ended token is still in the state."""

_FIELDS: dict[str, type] = {
    "AppID": str,
    "Kanzlei": str,
    "Database": str,
    "User": str,
    "Role": int,
    "Product": int,
    "Password": str,
    "Nonce": str,
    "HMAC512Signature": str,
    "RequestTimeStamp": str,
}
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(?:Z|\+00:?00)")


@dataclass(frozen=True, slots=True)
class Firm:
    """One firm with its connector and the application that is enabled for it; all invented.

    Attributes:
        kanzlei: the firm's code; it needs URL encoding.
        database: name of its database.
        app_id: the application.
        api_key: the application's key, base64.
        passwords: by initials of the employee.
        role: the number that employees come with.
    """

    kanzlei: str = "sim+4711"
    database: str = "musterkanzlei"
    app_id: str = "bitbylaw-simulated-app"
    api_key: str = "c2ltdWxhdGVkLWFkdm93YXJlLWFwaS1rZXk="
    passwords: Mapping[str, str] = field(
        default_factory=lambda: {"SB": "simuliertes-kennwort", "AI": "anderes-kennwort"}
    )
    role: int = 2


@dataclass(slots=True)
class Token:
    """One token that was given out, by the true time.

    Attributes:
        user: for whom.
        ends: from when it is not valid any more.
        revoked: whether it was ended before.
    """

    user: str
    ends: datetime
    revoked: bool = False


class Gateway:
    """The security gateway of one firm.

    Args:
        firm: who may come in.
        quirks: gives the switches.
        dice: of the tokens.

    Attributes:
        tokens: by the SHA-256 of the token; the token itself is not kept.
    """

    def __init__(self, firm: Firm, quirks: Callable[[], AdvowareQuirks], dice: Random) -> None:
        self.firm = firm
        self.dice = dice
        self.tokens: dict[str, Token] = {}
        self._quirks = quirks
        self._nonces: dict[str, datetime] = {}

    def addresses(self, kanzlei: str, base: str) -> dict[str, str | None]:
        """Return what the configurator answers for a firm.

        Args:
            kanzlei: the firm's code as asked.
            base: where this simulator is reached, without a trailing slash.

        Raises:
            Refusal: 404, the firm is unknown.
        """
        quirks = self._quirks()
        if kanzlei != self.firm.kanzlei:
            if quirks.unknown_firm == "404":
                raise Refusal(404, f"Die Kanzlei {kanzlei} ist nicht registriert.")
            return {"relayUrl": None, "connectorUrl": None, "securityGateway": None}
        end = "/" if quirks.trailing_slashes else ""
        return {
            "relayUrl": f"{base}/relay{end}",
            "connectorUrl": f"{base}/connector{end}" if quirks.connector_url else None,
            "securityGateway": f"{base}/security{end}",
        }

    def log_in(self, body: Any, now: datetime) -> dict[str, Any]:
        """Return a fresh token as the gateway answers it.

        Args:
            body: the decoded request.
            now: the true time.

        Raises:
            Refusal: a field is missing or wrong, the signature does not fit, or the firm is away.
        """
        quirks = self._quirks()
        given = self._fields(body)
        shown = now + timedelta(seconds=quirks.clock_skew_seconds)
        self._check_signature(given, shown)
        self._check_firm(given)
        self._check_user(given)
        if quirks.single_token:
            self.revoke(user=given["User"])
        token = self.issue(given["User"], now)
        answer: dict[str, Any] = {"access_token": token}
        if quirks.token_expiry in {"expiration_utc", "both"}:
            told = shown + timedelta(seconds=quirks.token_seconds)
            answer["expiration_utc"] = f"{told:%Y-%m-%dT%H:%M:%S}.{told.microsecond // 1000:03d}Z"
        if quirks.token_expiry in {"expires_in", "both"}:
            answer["expires_in"] = int(quirks.token_seconds)
        return answer

    def issue(self, user: str, now: datetime) -> str:
        """Return a fresh token for a user who has shown who they are."""
        self.tokens = {
            digest: held for digest, held in self.tokens.items() if now - held.ends < _REMEMBERED
        }
        token = f"{self.dice.getrandbits(256):064x}.{self.dice.getrandbits(128):032x}"
        ends = now + timedelta(seconds=self._quirks().token_seconds)
        self.tokens[fingerprint(token)] = Token(user, ends)
        return token

    def user(self, authorization: str | None, now: datetime) -> str:
        """Return whose token a call carries.

        Raises:
            Refusal: 401, there is none, it is unknown, at its end or revoked.
        """
        scheme, _, token = (authorization or "").partition(" ")
        held = self.tokens.get(fingerprint(token)) if scheme.lower() == "bearer" else None
        if held is None or held.revoked or held.ends <= now:
            raise Refusal(401, "Authorization has been denied for this request.")
        return held.user

    def check_connector(self) -> None:
        """Return when the firm's connector is there.

        Raises:
            Refusal: it is not.
        """
        quirks = self._quirks()
        if quirks.connector != "online":
            raise Refusal(int(quirks.offline_status), self._away())

    def revoke(self, *, user: str | None = None) -> int:
        """End all tokens, or those of one user; return how many were valid."""
        ended = 0
        for token in self.tokens.values():
            if not token.revoked and user in {None, token.user}:
                token.revoked = True
                ended += 1
        return ended

    def forget(self) -> None:
        """Forget tokens and nonces."""
        self.tokens.clear()
        self._nonces.clear()

    def _fields(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise self._refused("The request body must be an object.")
        for name, kind in _FIELDS.items():
            if type(body.get(name)) is not kind or body[name] == "":
                wanted = "a number" if kind is int else "a text"
                raise self._refused(f"The field {name} is required and must be {wanted}.")
        return body

    def _check_signature(self, given: dict[str, Any], shown: datetime) -> None:
        quirks = self._quirks()
        stamp = _stamp(given["RequestTimeStamp"])
        if stamp is None:
            raise self._refused("RequestTimeStamp is not a time in UTC.")
        tolerance = timedelta(seconds=quirks.timestamp_tolerance_seconds)
        if abs(stamp - shown) > tolerance:
            raise self._refused("RequestTimeStamp is too far from the time of the server.")
        names = ("Product", "AppID", "Nonce", "RequestTimeStamp")
        message = ":".join(str(given[name]) for name in names)
        right = hmac.new(base64.b64decode(self.firm.api_key), message.encode(), hashlib.sha512)
        known = given["AppID"] == self.firm.app_id
        if not known or not hmac.compare_digest(
            right.digest(), _decoded(given["HMAC512Signature"])
        ):
            raise self._refused("The signature of the request is not valid.")
        self._nonces = {
            nonce: since for nonce, since in self._nonces.items() if shown - since <= 2 * tolerance
        }
        if given["Nonce"] in self._nonces and quirks.nonce_reuse == "refused":
            raise self._refused("The nonce was used before.")
        self._nonces[given["Nonce"]] = shown

    def _check_firm(self, given: dict[str, Any]) -> None:
        known = (given["Kanzlei"], given["Database"]) == (self.firm.kanzlei, self.firm.database)
        if not known or self._quirks().connector != "online":
            raise self._refused(self._away(unregistered=not known))

    def _check_user(self, given: dict[str, Any]) -> None:
        quirks = self._quirks()
        if given["Product"] != PRODUCT or quirks.licence == "product":
            raise self._refused(f"Das Produkt {given['Product']} ist nicht freigeschaltet.")
        if self.firm.passwords.get(given["User"]) != given["Password"]:
            if quirks.login_text == "name":
                raise self._refused("Falscher Name oder falsches Kennwort.")
            raise self._refused("Benutzer / Kennwort ungültig.")
        if given["Role"] != self.firm.role or quirks.licence == "user":
            raise self._refused(
                f"Der Benutzer {given['User']} ist für das Produkt {PRODUCT} nicht freigeschaltet."
            )

    def _away(self, *, unregistered: bool = False) -> str:
        if unregistered or self._quirks().connector == "unregistered":
            return "Die Kanzlei ist nicht registriert."
        return f"Die Datenbank {self.firm.database} ist nicht angemeldet."

    def _refused(self, message: str) -> Refusal:
        return Refusal(int(self._quirks().gateway_status), message)


def fingerprint(token: str) -> str:
    """Return the SHA-256 that stands for a token in logs and states."""
    return hashlib.sha256(token.encode()).hexdigest()


def _stamp(text: str) -> datetime | None:
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(f"{found[1]}.{(found[2] or '0')[:6].ljust(6, '0')}+00:00")
    except ValueError:
        return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
