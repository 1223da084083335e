"""The state that API operations read and change."""

import secrets
from collections.abc import Callable

import attrs

from nunu_async.sandbox.builds import BuildStore
from nunu_async.sandbox.dialects import Dialect
from nunu_async.sandbox.history import History
from nunu_async.sandbox.http import Call
from nunu_async.sandbox.objects import ObjectStore


@attrs.frozen(kw_only=True)
class Project:
    """The one project of a sandbox."""

    builds: BuildStore
    objects: ObjectStore
    history: History
    dialect: Dialect
    url_life: float
    """Seconds for which a storage URL is valid."""
    storage_url: Callable[[], str]
    now: Callable[[], float]
    secret: bytes = attrs.field(factory=lambda: secrets.token_bytes(32))
    """The key that signs storage URLs."""

    def is_named_by(self, call: Call) -> bool:
        """Return whether the path contains this project's id or no project id."""
        return call.params.get("project_id", self.builds.project_id) == self.builds.project_id
