"""Which proxy leads to an address, by the environment alone. Pure; `.netrc` is never read."""

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

__all__ = ["DIRECT", "Proxies", "Way", "way_through"]

_SCHEMES: Final = ("http", "https")
_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Way:
    """How to reach one address: straight, or by a proxy.

    Attributes:
        proxy: its address, without user and password; None for straight.
        problem: why nothing can be sent this way; "" where something can.
    """

    proxy: URL | None = None
    _credentials: Secret | None = None
    _tunnels: bool = False
    problem: str = ""

    def checked(self) -> Self:
        """Return this way, if it is one.

        Raises: ConfigError.
        """
        if self.problem:
            raise ConfigError(self.problem)
        return self

    def asking(self) -> dict[str, str] | None:
        """Return the headers of the request for a tunnel, which https goes through."""
        return self._headers() if self._tunnels else None

    def passing(self) -> dict[str, str]:
        """Return the headers of a plain request, which the proxy reads itself."""
        return {} if self._tunnels else self._headers() or {}

    def _headers(self) -> dict[str, str] | None:
        if self._credentials is None:
            return None
        return {"Proxy-Authorization": self._credentials.reveal()}


DIRECT: Final = Way()


@attrs.frozen
class Proxies:
    """The proxies that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name.

    Lower case wins over upper case, and an empty lower-case one takes the other back. In a CGI
    process `HTTP_PROXY` is not believed, because there a client's `Proxy:` header sets it. What
    runs on this machine is always reached straight. A proxy of a kind that is not supported is a
    problem of the ways that lead through it, and of no others.
    """

    _by_scheme: Mapping[str, Way] = attrs.field(factory=dict)
    _without: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Proxies:
        """Read the environment."""
        found: dict[str, Way] = {}
        for scheme in _SCHEMES:
            name, value = _setting(environ, scheme)
            if value:
                found[scheme] = way_through(name, value, tunnels=scheme == "https")
        _, without = _setting(environ, "no")
        names = (name.strip().lower() for name in without.split(","))
        return cls(found, tuple(name for name in names if name))

    def way_to(self, url: str) -> Way:
        """Return how to reach a URL that was found fit to be sent to."""
        parts = urlsplit(url)
        host, way = (parts.hostname or "").rstrip("."), self._by_scheme.get(parts.scheme)
        if way is None or is_loopback(host):
            return DIRECT
        port = parts.port or _PORTS[parts.scheme]
        return DIRECT if any(_covers(name, host, port) for name in self._without) else way


def _setting(environ: Mapping[str, str], scheme: str) -> tuple[str, str]:
    lower, upper = f"{scheme}_proxy", f"{scheme}_proxy".upper()
    # `in environ` would find a name in any case on Windows, and so a header of a client.
    if lower in list(environ):
        return lower, environ[lower].strip()
    if scheme == "http" and "REQUEST_METHOD" in environ:
        return upper, ""
    return upper, environ.get(upper, "").strip()


def way_through(name: str, value: str, *, tunnels: bool) -> Way:
    """Return the way by the proxy that a setting names; a problem does not show its value."""
    address = None
    if value.isascii() and value.isprintable() and " " not in value:
        with suppress(ValueError):
            parts = urlsplit(value if "://" in value else f"http://{value}")
            if parts.scheme in _SCHEMES and parts.hostname:
                port = parts.port or _PORTS[parts.scheme]
                address = URL.build(scheme=parts.scheme, host=parts.hostname, port=port)
    if address is None:
        return Way(
            problem=f"{name} is not the address of an http or https proxy, and this request would "
            "go through it; correct it, or name the host in NO_PROXY"
        )
    if parts.username is None and parts.password is None:
        return Way(address, None, tunnels)
    told = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return Way(address, Secret(f"Basic {b64encode(told.encode()).decode()}"), tunnels)


def _covers(name: str, host: str, port: int) -> bool:
    """Tell whether an entry of `NO_PROXY` is for a host: `*`, a domain, an address, a network."""
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
            pass  # perhaps with a port
    place, colon, told = name.rpartition(":")
    if colon and told.isdecimal() and (":" not in place or place.startswith("[")):
        name, only = place.strip("[]"), int(told)
        if only != port:
            return False
    domain = name.removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
