"""The client's settings: from arguments, then the environment, then defaults. Pure."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeGuard
from urllib.parse import urlsplit

import attrs

from nunu_async.errors import ConfigError
from nunu_async.redact import Secret

__all__ = [
    "Config",
    "PathStyle",
    "Timeouts",
    "address_of",
    "check_at_once",
    "is_loopback",
    "normalize_base_url",
]

DEFAULT_BASE_URL = "https://nunu.ai/api/v1"
PathStyle: TypeAlias = Literal["key", "project"]

KEY_VARIABLES = ("NUNU_API_KEY", "NUNU_API_TOKEN")
PROJECT_VARIABLES = ("NUNU_PROJECT_ID",)
BASE_URL_VARIABLES = ("NUNU_BASE_URL", "NUNU_API_URL")
STATE_VARIABLES = ("NUNU_STATE_DIR",)

_MAX_KEY_LENGTH = 512
_QUOTES = ("'", '"', "`")
_UNQUOTED = "write it without them (`docker --env-file` takes them for a part of the value)"
# The prefix of organization keys. They imply no project; paths without one return 401 for them.
_ORGANIZATION_KEY = "nunu_org_"
# The one path that is documented without a project for both kinds of keys.
_WITHOUT_PREFIX = "/minions/download"
# More connections than this to one host are a mistake, and would exhaust file descriptors.
_MAX_CONCURRENCY = 1000
# A lower value is a mistaken unit: the limit is in bytes per second, not megabytes.
_MIN_BANDWIDTH = 1024
# A slug or a UUID; the vendor's CLI accepts exactly these characters.
_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,255}")


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (is_number(value) and value > 0):
        raise ConfigError(
            f"{attribute.name} must be a positive, finite number of seconds, not {value!r}"
        )


def _not_negative(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (is_number(value) and value >= 0):
        raise ConfigError(f"{attribute.name} must be a finite number, 0 or more, not {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number, and not a bool."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


def check_at_once(value: object) -> str:
    """Return what is wrong with a concurrency limit, or "" if it is valid."""
    if type(value) is int and 1 <= value <= _MAX_CONCURRENCY:
        return ""
    return f"must be a whole number from 1 to {_MAX_CONCURRENCY}, not {value!r}"


def check_bandwidth(value: object) -> str:
    """Return what is wrong with a limit in bytes per second, or "" if it is valid."""
    if value is None or (is_number(value) and value >= _MIN_BANDWIDTH):
        return ""
    return f"must be None or {_MIN_BANDWIDTH} bytes a second or more, not {value!r}"


@attrs.frozen(kw_only=True)
class Timeouts:
    """All time limits, in seconds except for `trickle_rate`.

    Attributes:
        connect: one TCP and TLS handshake, name lookup included.
        attempt: one attempt of an API request, until the whole response has been read.
        call: one API call, all attempts and pauses included, but not its time in the queue.
        complete: completing an upload, over all attempts; includes the server assembling the build.
        stall: during a part's PUT, how long no byte may be sent while some are left to send.
        trickle_rate: minimum bytes per second while a part is sent, on average over
            `trickle_window`; 0 for no minimum.
        trickle_window: seconds; 0 for no minimum.
        answer: from sending a part's last byte to the storage's response. A part that fits in the
            socket buffers, a few MB, is sent at once: then only this limit applies.
        cleanup: cancelling an upload on the server, over all attempts; independent of all other
            limits, even after one of those was reached.
        settle: when the caller cancels, how long to wait for the response to a request whose
            effect would otherwise stay unknown.
    """

    connect: float = attrs.field(default=10.0, validator=_positive)
    attempt: float = attrs.field(default=60.0, validator=_positive)
    call: float = attrs.field(default=120.0, validator=_positive)
    complete: float = attrs.field(default=600.0, validator=_positive)
    stall: float = attrs.field(default=60.0, validator=_positive)
    trickle_rate: float = attrs.field(default=8192.0, validator=_not_negative)
    trickle_window: float = attrs.field(default=300.0, validator=_not_negative)
    answer: float = attrs.field(default=120.0, validator=_positive)
    cleanup: float = attrs.field(default=30.0, validator=_positive)
    settle: float = attrs.field(default=8.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Config:
    """Validated settings.

    Attributes:
        base_url: with ``/api/v1``, without a trailing slash.
        allow_http: plain http to hosts other than this machine is permitted.
        path_style: ``key`` for paths in which the key implies the project, ``project`` for
            ``/project/{projectId}/...``.
        state_dir: where journals of uploads are kept; None is the system's state directory.
    """

    api_key: Secret
    base_url: str
    project_id: str | None = None
    allow_http: bool = False
    path_style: PathStyle = "key"
    state_dir: str | None = None

    def url(self, path: str) -> str:
        """Return the URL of an API path; only this method knows both path styles.

        No project is added to a path that already has one, nor to the one path that is the same
        for both kinds of keys.
        """
        if self.path_style == "project" and not (
            path.startswith("/project/") or path == _WITHOUT_PREFIX
        ):
            return f"{self.base_url}/project/{self.project_id}{path}"
        return self.base_url + path

    @property
    def is_local(self) -> bool:
        """Whether the API is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        *,
        api_key: str | None = None,
        project_id: str | None = None,
        base_url: str | None = None,
        allow_http: bool = False,
        path_style: PathStyle | None = None,
        state_dir: str | None = None,
    ) -> Config:
        """Load each setting from its argument, else from `environ`; empty values count as not set.

        Raises: ConfigError when no key is found or a value is invalid. No message shows a key.
        """
        key = _clean_key(api_key) or next(
            (found for name in KEY_VARIABLES if (found := _clean_key(environ.get(name)))), None
        )
        if key is None:
            names = " nor ".join(KEY_VARIABLES)
            raise ConfigError(f"no API key: neither {names} is set, nor was api_key passed")
        _check_key(key)
        project = project_id or _first(environ, PROJECT_VARIABLES)
        if project is not None and not _PROJECT.fullmatch(project):
            raise ConfigError("project_id must be 1 to 255 letters, digits, hyphens or underscores")
        if path_style not in (None, "key", "project"):
            raise ConfigError(f"path_style must be key or project, not {path_style!r}")
        is_organization = key.startswith(_ORGANIZATION_KEY)
        style: PathStyle = path_style or ("project" if is_organization else "key")
        if is_organization and style == "key":
            raise ConfigError("an organization key works on project paths only")
        if style == "project" and project is None:
            cause = "an organization key" if is_organization else 'path_style="project"'
            raise ConfigError(f"{cause} needs a project_id, or NUNU_PROJECT_ID")
        url = base_url or _first(environ, BASE_URL_VARIABLES) or DEFAULT_BASE_URL
        url = normalize_base_url(url, allow_http=allow_http)
        if _clean_key(api_key) and not base_url and url != DEFAULT_BASE_URL:
            # Otherwise, whoever controls the environment could redirect a key that was passed in.
            name = next(name for name in BASE_URL_VARIABLES if environ.get(name, "").strip())
            raise ConfigError(
                f"the key was passed in and is not sent where the environment says ({name}); pass "
                "base_url as well"
            )
        return cls(
            api_key=Secret(key),
            base_url=url,
            project_id=project,
            allow_http=allow_http,
            path_style=style,
            state_dir=state_dir or _first(environ, STATE_VARIABLES),
        )


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        if value := environ.get(name, "").strip():
            if value[0] in _QUOTES:
                raise ConfigError(f"{name} holds quotation marks: {_UNQUOTED}")
            return value
    return None


def _clean_key(value: str | None) -> str | None:
    # CI secrets often end in a newline; `_check_key` rejects anything else unusual.
    return (value or "").strip() or None


def _check_key(key: str) -> None:
    if any(quote in key for quote in _QUOTES):
        raise ConfigError(f"the API key holds quotation marks: {_UNQUOTED}")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            "the API key holds spaces, control or non-ASCII characters; was it pasted whole?"
        )
    if len(key) > _MAX_KEY_LENGTH:
        raise ConfigError(f"the API key is over {_MAX_KEY_LENGTH} characters long")


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only be this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse a host as an IP address, in any form that resolvers accept; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # Resolvers read 127.1, 0x7f000001 and 2130706433 as 127.0.0.1.
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address


def normalize_base_url(url: str, *, allow_http: bool = False) -> str:
    """Return the API's base URL, with any missing part of ``/api/v1`` added.

    Raises: ConfigError for another scheme, user info, a query or a fragment, and for plain http
    to a host other than this machine unless `allow_http`.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("base_url cannot be read as a URL") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(
            f"base_url must be an http or https URL with a host, not {_describe_url(url)}"
        )
    if port == 0 or not url.strip().isascii():
        raise ConfigError("base_url must be ASCII, with a port that is not 0 if it has one")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("base_url must not hold user info, a query or a fragment")
    if any(c.isspace() or not c.isprintable() for c in url.strip()):
        raise ConfigError("base_url holds spaces or control characters")
    if parts.scheme == "http" and not (allow_http or is_loopback(host)):
        raise ConfigError(
            f"base_url is plain http to {host}, where the API key could be read on the way; "
            "use https (or allow_http=True in a program)"
        )
    path = parts.path.rstrip("/")
    for ending in ("/api/v1", "/api", ""):
        if path.endswith(ending):
            path = path[: len(path) - len(ending)] + "/api/v1"
            break
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{path}"


def _describe_url(url: str) -> str:
    # A text without a scheme is not shown: it may be a key passed as the wrong argument.
    scheme, colon, _ = url.partition("://")
    if not colon:
        return "one without a scheme"
    return f"one that starts with {scheme[:20]!r}"
