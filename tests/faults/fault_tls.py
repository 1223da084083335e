"""Certificates for the fault server: good ones, and each kind of bad one."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import cache
from typing import Literal

import trustme

Certificate = Literal["good", "self-signed", "expired", "wrong-host"]
_NAMES = ("127.0.0.1", "::1", "localhost", "*.localhost", "*.nunu.test")


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_context(kind: Certificate) -> ssl.SSLContext:
    """Return what a server of this kind presents."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA() if kind == "self-signed" else _authority()
    past = datetime(2020, 1, 1, tzinfo=UTC) if kind == "expired" else None
    names = ("elsewhere.test",) if kind == "wrong-host" else _NAMES
    authority.issue_cert(*names, not_after=past).configure_cert(context)
    return context


@cache
def client_context() -> ssl.SSLContext:
    """Return a default context that trusts the authority of the good certificates as well."""
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context
