"""Choose the proxy for a URL from the environment. Pure; `.netrc` is never read."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import attrs
from yarl import URL

from nunu_async.config import is_loopback
from nunu_async.errors import ConfigError
from nunu_async.redact import Secret

_SCHEMES: Final = ("http", "https")
_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class ProxyRoute:
    """How to reach one address: directly, or through a proxy.

    Attributes:
        proxy: URL of the proxy, without user and password; None for a direct connection.
        problem: why this route cannot be used; "" if it can.
    """

    proxy: URL | None = None
    _credentials: Secret | None = None
    _tunnels: bool = False
    problem: str = ""

    def checked(self) -> Self:
        """Return this route if it can be used.

        Raises: ConfigError if it has a `problem`.
        """
        if self.problem:
            raise ConfigError(self.problem)
        return self

    def asking(self) -> dict[str, str] | None:
        """Return the headers of the CONNECT request for an https tunnel."""
        return self._headers() if self._tunnels else None

    def passing(self) -> dict[str, str]:
        """Return the headers to add to a plain http request, which the proxy reads."""
        return {} if self._tunnels else self._headers() or {}

    def _headers(self) -> dict[str, str] | None:
        if self._credentials is None:
            return None
        return {"Proxy-Authorization": self._credentials.reveal()}


NO_PROXY: Final = ProxyRoute()


@attrs.frozen
class Proxies:
    """The proxies set by `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.

    Lower-case variables take precedence, even if empty. In a CGI process, `HTTP_PROXY` is ignored,
    because a client's `Proxy:` header sets it. Loopback hosts are always reached directly. An
    unsupported kind of proxy is reported only for the routes through it.
    """

    _by_scheme: Mapping[str, ProxyRoute] = attrs.field(factory=dict)
    _no_proxy: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Proxies:
        """Read the environment."""
        by_scheme: dict[str, ProxyRoute] = {}
        for scheme in _SCHEMES:
            name, value = _setting(environ, scheme)
            if value:
                by_scheme[scheme] = way_through(name, value, tunnels=scheme == "https")
        _, no_proxy = _setting(environ, "no")
        names = (name.strip().lower() for name in no_proxy.split(","))
        return cls(by_scheme, tuple(name for name in names if name))

    def way_to(self, url: str) -> ProxyRoute:
        """Return the route to a validated URL."""
        parts = urlsplit(url)
        host, route = (parts.hostname or "").rstrip("."), self._by_scheme.get(parts.scheme)
        if route is None or is_loopback(host):
            return NO_PROXY
        port = parts.port or _PORTS[parts.scheme]
        return NO_PROXY if any(_matches(name, host, port) for name in self._no_proxy) else route


def _setting(environ: Mapping[str, str], scheme: str) -> tuple[str, str]:
    lower, upper = f"{scheme}_proxy", f"{scheme}_proxy".upper()
    # On Windows, `in environ` ignores case, and would match a variable set by a client's header.
    if lower in list(environ):
        return lower, environ[lower].strip()
    if scheme == "http" and "REQUEST_METHOD" in environ:
        return upper, ""
    return upper, environ.get(upper, "").strip()


def way_through(name: str, value: str, *, tunnels: bool) -> ProxyRoute:
    """Return the route through a proxy; `problem` shows only the name of the setting."""
    address = None
    if value.isascii() and value.isprintable() and " " not in value:
        with suppress(ValueError):
            parts = urlsplit(value if "://" in value else f"http://{value}")
            if parts.scheme in _SCHEMES and parts.hostname:
                port = parts.port or _PORTS[parts.scheme]
                address = URL.build(scheme=parts.scheme, host=parts.hostname, port=port)
    if address is None:
        return ProxyRoute(
            problem=f"{name} is not the address of an http or https proxy, and this request would "
            "go through it; correct it, or name the host in NO_PROXY"
        )
    if parts.username is None and parts.password is None:
        return ProxyRoute(address, None, tunnels)
    userinfo = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return ProxyRoute(address, Secret(f"Basic {b64encode(userinfo.encode()).decode()}"), tunnels)


def _matches(name: str, host: str, port: int) -> bool:
    """Tell whether a `NO_PROXY` entry matches: `*`, a domain, an address or a network."""
    if name == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        try:
            return address in ipaddress.ip_network(name.strip("[]"), strict=False)
        except ValueError:
            pass  # it may be an address with a port
    host_part, colon, port_part = name.rpartition(":")
    if colon and port_part.isdecimal() and (":" not in host_part or host_part.startswith("[")):
        name = host_part.strip("[]")
        if int(port_part) != port:
            return False
    domain = name.removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
