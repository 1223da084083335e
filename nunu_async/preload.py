"""Load all the code that a client may need at once."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - asyncio uses it for DNS lookups
import encodings.idna  # noqa: F401 - TLS connections encode the host name with it
import sys

from nunu_async import endpoints, models, polling, upload
from nunu_async.core import codec
from nunu_async.models.base import Model
from nunu_async.models.page import Page, Pagination


def load_everything() -> None:
    """Load every module, and generate the decoding code; takes up to half a second."""
    for package in (endpoints, models, polling, upload):
        for name in package.__all__:
            getattr(package, name)
    codec.prepare(Pagination)
    # Endpoint modules import their response models, or define those that no other module needs.
    for name in [name for name in sys.modules if name.startswith("nunu_async.endpoints.")]:
        for value in list(vars(sys.modules[name]).values()):
            if isinstance(value, type) and issubclass(value, Model) and value not in (Model, Page):
                codec.prepare(value)
