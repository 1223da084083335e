"""The aiohttp sessions of a client: request options, and isolation from tracing hooks."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, TypedDict

import aiohttp
from yarl import URL

from nunu_async.core.connector import Connector
from nunu_async.core.proxies import NO_PROXY, Proxies, ProxyRoute, way_through
from nunu_async.core.wire import LONGEST_LINE, MOST_HEADERS, Response, send_once

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Options(TypedDict):
    allow_redirects: bool
    raise_for_status: bool
    auto_decompress: bool
    middlewares: Sequence[aiohttp.ClientMiddlewareType]
    max_line_size: int
    max_field_size: int
    max_headers: int


# Passed with each request, also to a caller's session.
OPTIONS: Final[_Options] = {
    "allow_redirects": False,  # redirects would send custom headers to any host
    "raise_for_status": False,
    "auto_decompress": True,
    "middlewares": (send_once,),
    "max_line_size": LONGEST_LINE,
    "max_field_size": LONGEST_LINE,
    "max_headers": MOST_HEADERS,
}


class HttpSessions:
    """The sessions for one kind of host, the API or storage; created on demand.

    Tracing libraries add hooks to every aiohttp session of a process. A hook sees the URL of each
    request, and may add headers, which presigned URLs do not allow. So confidential requests use
    a separate session without hooks, with the same connection pool.

    Args:
        limit: maximum number of connections.
        given: the caller's session, used instead of our own and never closed.
    """

    def __init__(
        self, limit: int, tls: ssl.SSLContext | None, given: aiohttp.ClientSession | None = None
    ) -> None:
        self._limit = limit
        self._tls = tls
        self._given = given
        self._connector: aiohttp.BaseConnector | None = None
        self._open: aiohttp.ClientSession | None = None
        self._confidential: aiohttp.ClientSession | None = None

    @property
    def given_is_closed(self) -> bool:
        """Whether the caller passed a session that is now closed."""
        return self._given is not None and self._given.closed

    def take(self, *, confidential: bool) -> aiohttp.ClientSession:
        """Return the session for a request, which must start in the same loop iteration.

        aiohttp reads the hooks when a request starts. Hooks added since the last request are
        removed here.
        """
        given = self._given
        if not confidential and (given is None or not given.trust_env):
            if given is not None:
                return given
            if self._open is None:
                self._open = self._new()
            return self._open
        if self._confidential is None:
            self._confidential = self._new()
        http = self._confidential
        http.headers.clear()
        if given is not None:
            http.headers.update(given.headers)
            # With a `base_url`, aiohttp sends `auth` to that host only.
            if given.auth is not None and given._base_url is None:  # noqa: SLF001 - no public name
                http.headers.setdefault("Authorization", given.auth.encode())
        # aiohttp 3 has no other way to remove hooks without changing a list that their owner may
        # share between sessions; `tests/test_hooks.py` fails if this stops working.
        http._trace_configs = [] if confidential or given is None else given.trace_configs  # noqa: SLF001
        return http

    def is_given(self, http: aiohttp.ClientSession) -> bool:
        """Tell whether this is the caller's own session, which has its own proxy."""
        return http is self._given

    def _new(self) -> aiohttp.ClientSession:
        if self._connector is None:
            given = self._given
            self._connector = given.connector if given else Connector(self._limit, self._tls)
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=self._given.cookie_jar if self._given else aiohttp.DummyCookieJar(),
            response_class=Response,
            trust_env=False,  # True would read `.netrc` too
        )

    async def close(self) -> None:
        """Close our sessions and connections, not the caller's; may be called twice."""
        for http in (self._open, self._confidential):
            if http is not None:
                await http.close()
        if self._connector is not None and self._given is None:
            await self._connector.close()


def way_of(given: aiohttp.ClientSession, url: str, proxies: Proxies) -> ProxyRoute:
    """Return the proxy route that a caller's session would use for a URL."""
    proxy = given._default_proxy  # noqa: SLF001 - aiohttp has no public name for it
    if proxy is None:
        return proxies.way_to(url) if given.trust_env else NO_PROXY
    address = URL(proxy)
    if (auth := given._default_proxy_auth) is not None:  # noqa: SLF001 - as above
        address = address.with_user(auth.login).with_password(auth.password)
    return way_through("the proxy of the session", str(address), tunnels=url.startswith("https:"))
