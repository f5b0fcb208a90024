"""Who may come in: API keys, HMAC, passwords, and the ban after too many denied logins."""

import base64
import binascii
import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from bitbylaw_simulators.espocrm.store import Refusal, User
from bitbylaw_simulators.wire import SimRequest

MOST_DENIED = 10
PERIOD = timedelta(seconds=60)


class Access:
    """Checks credentials and counts denied logins per address.

    Args:
        users: gives all users.
        banning: tells whether the ban is on.
    """

    def __init__(self, users: Callable[[], Iterable[User]], banning: Callable[[], bool]) -> None:
        self._users = users
        self._banning = banning
        self._denied: dict[str, deque[datetime]] = {}

    def user(self, request: SimRequest, path: str, now: datetime) -> User:
        """Return who asks.

        Args:
            request: the call.
            path: the resource path without `/api/v1`, which HMAC signs.
            now: the time.

        Raises:
            Refusal: 401 wrong or missing credentials, 403 the address is banned.
        """
        denied = self._denied.setdefault(request.remote, deque())
        while denied and now - denied[0] > PERIOD:
            denied.popleft()
        if self._banning() and len(denied) > MOST_DENIED:
            raise Refusal(
                403, f"Max failed login attempts exceeded for IP address {request.remote}."
            )
        found = self._found(request, path)
        if found is None:
            denied.append(now)
            raise Refusal(401)
        return found

    def forget(self) -> None:
        """Lift every ban."""
        self._denied.clear()

    def _found(self, request: SimRequest, path: str) -> User | None:
        key = request.header("X-Api-Key")
        if key is not None:
            return next((user for user in self._users() if user.api_key == key), None)
        signed = request.header("X-Hmac-Authorization")
        if signed is not None:
            return self._by_hmac(signed, f"{request.method} {path}")
        login = request.header("Espo-Authorization")
        basic = request.header("Authorization")
        if login is None and basic is not None and basic.lower().startswith("basic "):
            login = basic[6:]
        return None if login is None else self._by_password(login)

    def _by_hmac(self, signed: str, message: str) -> User | None:
        key, _, mac = _decoded(signed).partition(b":")
        user = next(
            (one for one in self._users() if one.api_key and one.api_key.encode() == key), None
        )
        if user is None or user.secret is None:
            return None
        right = hmac.new(user.secret.encode(), message.encode(), hashlib.sha256)
        known = (right.hexdigest().encode(), right.digest())
        return user if any(hmac.compare_digest(mac, form) for form in known) else None

    def _by_password(self, login: str) -> User | None:
        name, _, password = _decoded(login).partition(b":")
        for user in self._users():
            if user.password is not None and user.name.encode() == name:
                return user if user.password.encode() == password else None
        return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
