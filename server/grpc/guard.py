"""Who may call: keys in the metadata `authorization`, and groups of calls that need a value (`--grpc-restricted-protocol`).

Both are as over HTTP (`http.middleware.guard`). Where only HTTP's groups are restricted, the same groups are here, with the
same values.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping

from ...core.errors import Restricted, Unauthorized
from ..http.middleware.guard import DENIED
from ..http.middleware.tokens import Keys, Kind
from ..settings.restrictions import Restrictions
from ..settings.settings import Settings

#: What tritonserver puts before the keys of restricted groups.
PREFIX = "triton-grpc-protocol-"

Metadata = Iterable[tuple[str, str | bytes]]


def restrictions(settings: Settings) -> Restrictions:
    """The groups of calls that need a value."""
    return settings.grpc.restricted or settings.http_restricted_api


class Guard:
    """What the calls of one method must carry. `kind`: which key, None for none; `group`: metadata key and value, or None."""

    def __init__(self, keys: Keys | None, kind: Kind | None, group: tuple[str, str] | None) -> None:
        self._keys, self._kind, self._group = keys, kind, group
        self.lets_all_pass = kind is None and group is None

    def check(self, metadata: Metadata) -> None:
        """Raises Unauthorized or Restricted."""
        found = {name: value for name, value in metadata if isinstance(value, str)}
        if self._kind is not None and not (self._keys and self._keys.allows(self._kind, found.get("authorization"))):
            raise Unauthorized(DENIED)
        if self._group is not None:
            name, value = PREFIX + self._group[0].lower(), self._group[1]
            if not hmac.compare_digest(found.get(name, "").encode(), value.encode()):
                raise Restricted(f"This protocol is restricted, expecting header '{name}'")


def guards(
    settings: Settings, keys: Keys | None, groups: Mapping[str, str], kind_of: Callable[[str], Kind]
) -> dict[str, Guard]:
    """The guard of each method; `groups` has the group of each, `kind_of` gives the key that a group needs.

    Health needs no key where `JITNEY_TOKEN` is set: probes send no secrets.
    """
    restricted, found = restrictions(settings), {}
    for method, group in groups.items():
        open_to_probes = bool(settings.token) and group == "health"
        kind = None if keys is None or open_to_probes else kind_of(group)
        found[method] = Guard(keys, kind, restricted.get(group))
    return found
