"""The tokens that requests carry where the server asks for them (TorchServe's `key_file.json`), or one fixed token.

    {"management": {"key": …, "expiration time": …}, "inference": {…}, "API": {"key": …}}

The inference and the management key expire; the API key, which renews the others, does not. A fixed token opens both ports and
does not expire. Keys are compared in constant time.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from ....core.errors import InvalidConfig, Unavailable

Kind = Literal["inference", "management"]
KINDS: tuple[Kind, ...] = ("management", "inference")
#: TorchServe's keys have 6 random bytes, which is few; 24 cost nothing.
KEY_BYTES = 24
_BEARER = re.compile(r"Bearer\s+(\S+)", re.ASCII)


@dataclass(frozen=True)
class Key:
    """A key and the time in seconds since the epoch at which it expires; None = never."""

    text: str
    expires: float | None = None

    def matches(self, given: str | None, now: float) -> bool:
        if given is None or (self.expires is not None and now >= self.expires):
            return False
        return hmac.compare_digest(given.encode(), self.text.encode())


class Keys(Protocol):
    """What lets requests through: `Tokens`, or in a front end what knows them. Thread-safe."""

    def allows(self, kind: Kind, authorization: str | None) -> bool:
        """Whether an Authorization header opens this kind of route."""


class Tokens:
    """Who may do what. Thread-safe."""

    def __init__(self, path: Path | None, minutes: float, *, fixed: str = "", now: Callable[[], float] = time.time) -> None:
        """`path` is the key file, which `publish` writes; with a `fixed` token there is none. Keys expire after `minutes`."""
        if not fixed and path is None:
            raise ValueError("expected a key file or a fixed token")
        self.path, self._seconds, self._now = path, minutes * 60, now
        self._fixed = bool(fixed)
        self._lock = threading.Lock()
        self.on_renewed: Callable[[], None] = lambda: None  # called before the renewal is answered
        self._keys: dict[Kind, Key] = {kind: Key(fixed) if fixed else self._fresh() for kind in KINDS}
        self._api = None if fixed else Key(secrets.token_urlsafe(KEY_BYTES))

    def publish(self) -> None:
        """Writes the key file: once the server has its ports, so that a start in vain leaves another server's file alone.

        InvalidConfig where it cannot be written.
        """
        try:
            self._write()
        except OSError as error:
            raise InvalidConfig(
                f"the keys cannot be written into '{self.path}': {error.strerror}; start in a folder that can be written to, "
                "or set JITNEY_TOKEN"
            ) from None

    def _fresh(self) -> Key:
        return Key(secrets.token_urlsafe(KEY_BYTES), self._now() + self._seconds)

    @property
    def keys(self) -> dict[Kind, Key]:
        """What opens each kind of route now."""
        return self._keys

    def allows(self, kind: Kind, authorization: str | None) -> bool:
        """Whether an Authorization header opens this kind of route."""
        return self._keys[kind].matches(bearer(authorization), self._now())

    def renew(self, kind: str | None, authorization: str | None) -> bool:
        """Replaces the key of this kind where the header carries the API key; False where it does not, or there is no such.

        Unavailable where the key file cannot be written; the old key goes on to count then.
        """
        if self._api is None or kind not in KINDS or not self._api.matches(bearer(authorization), self._now()):
            return False
        with self._lock:
            before = self._keys
            self._keys = {**before, kind: self._fresh()}
            try:
                self.publish()
            except InvalidConfig as error:
                self._keys = before
                raise Unavailable(str(error)) from None
            self.on_renewed()
        return True

    def remove_file(self) -> None:
        """Deletes the key file, when the server ends; one that another server has written since stays."""
        if self.path is None or self._api is None:
            return
        try:
            mine = json.loads(self.path.read_text())["API"]["key"] == self._api.text
            if mine:
                self.path.unlink()
        except (OSError, ValueError, LookupError, TypeError):  # it is gone, or no key file
            return

    def _write(self) -> None:
        if self.path is None or self._api is None:
            return
        document = {kind: {"key": key.text, "expiration time": _instant(key.expires)} for kind, key in self._keys.items()}
        text = json.dumps({**document, "API": {"key": self._api.text}}, indent=2)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
        temporary.replace(self.path)


def bearer(authorization: str | None) -> str | None:
    """The key that an Authorization header carries."""
    found = _BEARER.fullmatch(authorization or "")
    return found[1] if found else None


def _instant(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds or 0, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
