"""The API keys and their permissions."""

from collections.abc import Iterable, Mapping

import attrs

READ_RUNS = "project:read-runs"
OPERATE_RUNS = "project:operate-runs"
MANAGE_BUILDS = "project:manage-build-storage"
PERMISSIONS = frozenset({READ_RUNS, OPERATE_RUNS, MANAGE_BUILDS})
"""The permissions that sandbox operations require; a key may have others too."""

_ORGANIZATION_PREFIX = "nunu_org_"


def _permissions(names: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise TypeError("a key's permissions are a set of texts, not one text")
    return frozenset(names)


@attrs.frozen(kw_only=True)
class Key:
    """The permissions and the validity of one API key."""

    permissions: frozenset[str] = attrs.field(default=PERMISSIONS, converter=_permissions)
    expires: float | None = None
    """Unix seconds, on the sandbox's clock; None means never."""
    is_disabled: bool = False
    key_id: str = "e4d3c2b1-a098-4876-8543-21f0e9d8c7b6"
    """Identifies the key as the initiator of the runs that it starts."""

    def __attrs_post_init__(self) -> None:
        if invalid := [name for name in self.permissions if not name.startswith("project:")]:
            raise ValueError(f"permissions begin with project:, not {invalid[0]!r}")

    def problem(self, permission: str, now: float) -> str | None:
        """Return the documented error if the key is invalid or lacks `permission`, else None."""
        if self.is_disabled:
            return "API key is disabled"
        if self.expires is not None and now >= self.expires:
            return "API key expired"
        if permission not in self.permissions:
            return f"API key missing required permission: {permission}"
        return None


class Keyring:
    """The keys that the sandbox accepts."""

    def __init__(self, keys: Mapping[str, Key | Iterable[str]]) -> None:
        if not all(keys):
            raise ValueError("keys must not be empty")
        self._keys = {
            text.encode(): key if isinstance(key, Key) else Key(permissions=key)
            for text, key in keys.items()
        }

    def find(self, header: str, *, is_scoped: bool) -> Key | None:
        """Find a key; an organization key is valid only if the path contains a project id."""
        if header.startswith(_ORGANIZATION_PREFIX) and not is_scoped:
            return None
        return self._keys.get(header.encode("utf-8", "surrogateescape"))
