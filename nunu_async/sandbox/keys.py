"""Know the API keys, and what each may do."""

import hmac
from collections.abc import Iterable, Mapping

import attrs

PERMISSIONS = frozenset(
    {
        "project:read-runs",
        "project:operate-runs",
        "project:manage-build-storage",
    }
)
"""Those that the operations here ask for; a key may hold others too."""

_NEEDED = {
    "initiate_upload": "project:manage-build-storage",
    "complete_upload": "project:manage-build-storage",
    "cancel_upload": "project:manage-build-storage",
    "get_build": "project:manage-build-storage",
    "list_runs": "project:read-runs",
    "get_run": "project:read-runs",
    "list_run_bugs": "project:read-runs",
    "list_test_plan_executions": "project:read-runs",
    "list_jobs": "project:read-runs",
    "get_job": "project:read-runs",
    "start_run": "project:operate-runs",
    "stop_runs": "project:operate-runs",
}
_ORGANIZATION = "nunu_org_"


def _permissions(given: Iterable[str]) -> frozenset[str]:
    if isinstance(given, str):
        raise TypeError("a key's permissions are a set of texts, not one text")
    return frozenset(given)


@attrs.frozen(kw_only=True)
class Key:
    """What one API key may do, and whether it still may."""

    permissions: frozenset[str] = attrs.field(default=PERMISSIONS, converter=_permissions)
    expires: float | None = None
    """Unix seconds, on the sandbox's clock; None is never."""
    is_disabled: bool = False
    key_id: str = "e4d3c2b1-a098-4876-8543-21f0e9d8c7b6"
    """Names the key as the initiator of the runs it started."""

    def __attrs_post_init__(self) -> None:
        if odd := [one for one in self.permissions if not one.startswith("project:")]:
            raise ValueError(f"permissions begin with project:, not {odd[0]!r}")

    def problem(self, operation: str, now: float) -> str | None:
        """Say why the key must not do an operation, in the published words; None when it may."""
        if self.is_disabled:
            return "API key is disabled"
        if self.expires is not None and now >= self.expires:
            return "API key expired"
        needed = _NEEDED.get(operation)
        if needed is not None and needed not in self.permissions:
            return f"API key missing required permission: {needed}"
        return None


class Keyring:
    """The keys that are known."""

    def __init__(self, keys: Mapping[str, Key | Iterable[str]]) -> None:
        if not all(keys):
            raise ValueError("keys must not be empty")
        self._keys = {
            text.encode(): key if isinstance(key, Key) else Key(permissions=key)
            for text, key in keys.items()
        }

    def find(self, given: str, *, is_scoped: bool) -> Key | None:
        """Find a key; an organization's is known only where the path names the project."""
        data = given.encode("utf-8", "surrogateescape")
        found = None
        for known, key in self._keys.items():
            if hmac.compare_digest(data, known):
                found = key
        if given.startswith(_ORGANIZATION) and not is_scoped:
            return None
        return found
