"""Proxies from the environment, for the API and for storage, and nothing else from it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import ssl
import warnings
from collections import UserDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from disclosed import disclosed
from doubles import (
    Exchange,
    ManualClock,
    RawServer,
    answer,
    body_length,
    raw_server,
    storage_for,
    until,
)
from hypothesis import given
from hypothesis import strategies as st
from scripted import KEY

from nunu_async import (
    ConfigError,
    ConnectError,
    NunuClient,
    NunuError,
    PartUrl,
    ProxyError,
    StorageError,
    Timeouts,
)
from nunu_async.core.proxies import NO_PROXY, Proxies
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source

USER, PASSWORD = "agent", "p:w@ss-MARKED-0001"
SHOWN_NOWHERE = (PASSWORD, "MARKED", base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
ASKED = f"Proxy-Authorization: Basic {SHOWN_NOWHERE[2]}".encode()
BUILD = json.dumps({"build_id": "b", "status": "OK"}).encode()
STORED = answer(headers={"ETag": '"0f343b0931126a20f133d67c2b018a3b"'})
AWKWARD = "/b/a%2Fb/%7Ename%20%281%29+x?X-Amz-Credential=AK%2Feu%2Fs3&sig=a%2Bb%3D&z=%e2%82%ac"


# --- Which proxy, by the environment alone.

PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": PROXY}, PROXY, None),
        ({"HTTPS_PROXY": PROXY}, None, PROXY),
        ({"http_proxy": PROXY}, PROXY, None),
        ({"https_proxy": PROXY}, None, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, None, PROXY),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None, None),
        ({"HTTPS_PROXY": "  "}, None, None),
        ({"HTTPS_PROXY": f" {PROXY}/ "}, None, PROXY),
        ({"HTTPS_PROXY": "proxy.test:3128"}, None, PROXY),
        ({"HTTPS_PROXY": "https://proxy.test:3128"}, None, "https://proxy.test:3128"),
        ({"HTTPS_PROXY": "http://proxy.test"}, None, "http://proxy.test"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, None, "http://[fd00::1]:3128"),
        ({"HTTPS_PROXY": "http://u:p%40w@proxy.test:3128"}, None, PROXY),
        # A web server would put a client's `Proxy:` header there.
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": PROXY, "REQUEST_METHOD": "GET"}, PROXY, None),
        ({"HTTPS_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None, PROXY),
        ({"ALL_PROXY": PROXY, "FTP_PROXY": PROXY}, None, None),
    ],
)
def test_the_environment_names_a_proxy_for_each_scheme(
    environ: dict[str, str], http: str | None, https: str | None
) -> None:
    proxies = Proxies.load(environ)
    for scheme, expected in (("http", http), ("https", https)):
        proxy = proxies.way_to(f"{scheme}://nunu.test/x").proxy
        assert (str(proxy).rstrip("/") if proxy else None) == expected


class AnyCase(UserDict[str, str]):
    """The environment of Windows: names are listed in capitals and found in any case."""

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name.upper(), value)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.upper())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).upper())


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_where_names_have_no_case_http_proxy_of_cgi_is_ignored(name: str) -> None:
    proxies = Proxies.load(AnyCase({name: PROXY}))
    assert proxies.way_to("http://nunu.test/x").proxy is not None
    proxies = Proxies.load(AnyCase({name: PROXY, "REQUEST_METHOD": "GET"}))
    assert proxies.way_to("http://nunu.test/x").proxy is None
    proxies = Proxies.load(AnyCase({name: "ftp://proxy.test"}))
    with pytest.raises(ConfigError, match="HTTP_PROXY is not"):
        proxies.way_to("http://nunu.test/x").checked()


@pytest.mark.parametrize(
    ("without", "url", "straight"),
    [
        ("", "https://nunu.test/", False),
        ("*", "https://nunu.test/", True),
        ("nunu.test", "https://nunu.test/", True),
        ("NUNU.test", "https://nunu.test/", True),
        ("nunu.test", "https://nunu.test./", True),
        ("nunu.test", "https://api.nunu.test/", True),
        (".nunu.test", "https://api.nunu.test/", True),
        ("*.nunu.test", "https://api.nunu.test/", True),
        ("nunu.test", "https://othernunu.test/", False),
        ("nunu.test", "https://nunu.test.evil.example/", False),
        ("a, b ,nunu.test", "https://nunu.test/", True),
        (",,", "https://nunu.test/", False),
        (".", "https://nunu.test/", False),
        ("nunu.test:443", "https://nunu.test/", True),
        ("nunu.test:8443", "https://nunu.test/", False),
        ("nunu.test:8443", "https://nunu.test:8443/", True),
        ("10.0.0.7", "https://10.0.0.7/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.7:443", "https://10.0.0.7/", True),
        ("10.0.0.7:8443", "https://10.0.0.7/", False),
        ("fd00::1", "https://[fd00::1]/", True),
        ("[fd00::1]", "https://[fd00::1]/", True),
        ("fd00::/16", "https://[fd00::99]/", True),
        ("[fd00::1]:443", "https://[fd00::1]/", True),
        ("", "https://localhost/", True),
        ("", "https://x.localhost:9/", True),
        ("", "https://127.0.0.1:9/", True),
        ("", "https://[::1]/", True),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_and_loopback_are_reached_directly(
    name: str, without: str, url: str, straight: bool
) -> None:
    proxies = Proxies.load({"HTTPS_PROXY": PROXY, name: without})
    assert (proxies.way_to(url) is NO_PROXY) is straight


@pytest.mark.parametrize(
    "value",
    [
        f"socks5://{USER}:MARKED@proxy.test:1080",
        "ftp://proxy.test",
        "http://",
        "http://MARKED@",
        "http://proxy.test:99999",
        "http://proxy.test:MARKED",
        "http://[MARKED",
        "http://pröxy.test",
        "http://MARKED\r\nX: y@proxy.test",
        "http://MARK ED@proxy.test",
    ],
)
def test_an_invalid_proxy_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY is not") as caught:
        NunuClient(KEY)
    assert "MARK" not in f"{caught.value!r}"
    assert caught.value.__cause__ is None
    NunuClient(KEY, trust_env=False)


async def test_an_invalid_proxy_matters_only_to_its_own_scheme(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, source: Source
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"socks5h://{USER}:MARKED@127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    async with (
        raw_server(serve) as api,
        NunuClient(KEY, base_url=api.url, clock=clock) as nunu,
    ):
        NunuClient(KEY, base_url="https://10.0.0.1")
        await nunu.builds.get("b")
    address = PartUrl(part_number=1, url="https://store.test/b?X-Amz-Signature=MARKED")
    proxies = Proxies.load({"HTTPS_PROXY": "socks5h://MARKED@127.0.0.1:1"})
    async with storage_for(clock, proxies=proxies) as storage:
        with pytest.raises(ConfigError, match=r"HTTPS_PROXY is not .* NO_PROXY") as caught:
            await storage.put(address, Part(1, 0, 1000), source, lambda _: None)
    assert "MARKED" not in disclosed(caught.value)


def test_credentials_are_not_in_any_repr() -> None:
    proxies = Proxies.load({"HTTP_PROXY": f"http://{USER}:MARKED@p.test", "NO_PROXY": "a"})
    assert "MARKED" not in f"{proxies!r} {proxies} {proxies.way_to('http://x.test')!r}"


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_environment_breaks_the_reader(proxy: str, without: str) -> None:
    with contextlib.suppress(ConfigError):
        proxies = Proxies.load({"HTTPS_PROXY": proxy, "NO_PROXY": without})
        proxies.way_to("https://nunu.test/x")
        proxies.way_to("https://10.0.0.1:8443/x")


# --- Over real sockets: the names below are known to the proxy alone.


@pytest.fixture
async def source(make_file: Callable[..., Path]) -> AsyncIterator[Source]:
    with ThreadPoolExecutor(1) as executor:
        async with await Source.open(make_file(300_000), executor) as opened:
            yield opened


def tunnel_to(port: Callable[[], int]) -> Exchange:
    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        assert head.startswith(b"CONNECT ")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port())
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while block := await source.read(65536):
                    sink.write(block)
                    await sink.drain()
            sink.close()

        try:
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))
        finally:
            far_writer.transport.abort()

    return exchange


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readexactly(body_length(head))
    writer.write(STORED if head.startswith(b"PUT ") else answer(body=BUILD))


def with_credentials(server: RawServer) -> str:
    return (
        f"http://{USER}:{PASSWORD.replace(':', '%3A').replace('@', '%40')}@127.0.0.1:{server.port}"
    )


async def test_a_tunnel_leads_to_the_api_and_the_proxy_never_sees_the_key(
    monkeypatch: pytest.MonkeyPatch,
    clock: ManualClock,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    async with (
        raw_server(serve, tls=server_tls) as api,
        raw_server(tunnel_to(lambda: api.port)) as proxy,
    ):
        monkeypatch.setenv("https_proxy", with_credentials(proxy))
        async with NunuClient(
            KEY, base_url="https://nunu.test:8443", ssl_context=client_tls, clock=clock
        ) as nunu:
            for _ in range(2):
                assert (await nunu.builds.get("b")).status == "OK"
            assert not any(secret in f"{nunu!r} {vars(nunu)!r}" for secret in SHOWN_NOWHERE)
    (asked,) = proxy.heads
    assert asked.startswith(b"CONNECT nunu.test:8443 HTTP/1.1\r\n")
    assert ASKED in asked
    assert KEY.encode() not in asked
    assert len(api.heads) == 2
    assert all(b"GET /api/v1/builds/b " in head for head in api.heads)
    assert all(b"proxy-authorization" not in head.lower() for head in api.heads)


async def test_a_tunnel_leads_to_storage(
    clock: ManualClock,
    source: Source,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    async with (
        raw_server(serve, tls=server_tls) as store,
        raw_server(tunnel_to(lambda: store.port)) as proxy,
    ):
        proxies = Proxies.load({"HTTPS_PROXY": with_credentials(proxy)})
        address = PartUrl(part_number=1, url=f"https://nunu.test{AWKWARD}")
        async with storage_for(clock, tls=client_tls, proxies=proxies, allow_http=True) as storage:
            await storage.put(address, Part(1, 0, 300_000), source, lambda _: None)
    (asked,) = proxy.heads
    assert asked.startswith(b"CONNECT nunu.test:443 HTTP/1.1\r\n")
    assert ASKED in asked
    (head,) = store.heads
    assert head.startswith(f"PUT {AWKWARD} HTTP/1.1\r\n".encode())
    assert b"authorization" not in head.lower()


async def test_plain_http_goes_to_the_proxy_as_a_whole_address(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, source: Source
) -> None:
    async with raw_server(serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", with_credentials(proxy))
        async with NunuClient(
            KEY, base_url="http://nunu.test", allow_http=True, clock=clock
        ) as nunu:
            for _ in range(2):
                await nunu.builds.get("b")
        proxies = Proxies.load({"HTTP_PROXY": proxy.url})
        address = PartUrl(part_number=1, url=f"http://store.test{AWKWARD}")
        async with storage_for(clock, proxies=proxies, allow_http=True) as storage:
            await storage.put(address, Part(1, 0, 1000), source, lambda _: None)
    lines = [head.split(b"\r\n", 1)[0].decode() for head in proxy.heads]
    assert lines == [
        "GET http://nunu.test/api/v1/builds/b HTTP/1.1",
        "GET http://nunu.test/api/v1/builds/b HTTP/1.1",
        f"PUT http://store.test{AWKWARD} HTTP/1.1",
    ]
    assert [ASKED in head for head in proxy.heads] == [True, True, False]
    assert proxy.connections == 2


@pytest.mark.parametrize("settings", [{"trust_env": False}, {"no_proxy": "127.0.0.0/8"}, {}])
async def test_this_machine_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, settings: dict[str, object]
) -> None:
    async with raw_server(serve) as proxy, raw_server(serve) as api:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("NO_PROXY", str(settings.pop("no_proxy", "")))
        async with NunuClient(KEY, base_url=api.url, clock=clock, **settings) as nunu:  # type: ignore[arg-type]
            await nunu.builds.get("b")
    assert (len(proxy.heads), len(api.heads)) == (0, 1)


async def test_an_injected_session_goes_its_own_way(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    async with (
        raw_server(serve) as proxy,
        raw_server(serve) as own,
        aiohttp.ClientSession(proxy=own.url) as session,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with NunuClient(
            KEY, base_url="http://nunu.test", allow_http=True, session=session, clock=clock
        ) as nunu:
            await nunu.builds.get("b")
    assert (len(proxy.heads), len(own.heads)) == (0, 1)


async def test_no_netrc_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: ManualClock, source: Source
) -> None:
    """Neither for the API, nor for storage, nor for the proxy."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(
        "".join(
            f"machine {host} login MARKED password MARKED\n"
            for host in ("127.0.0.1", "nunu.test", "store.test")
        )
        + "default login MARKED password MARKED\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with raw_server(serve) as proxy, raw_server(serve) as straight:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for url in ("http://nunu.test", straight.url):
            async with NunuClient(KEY, base_url=url, allow_http=True, clock=clock) as nunu:
                await nunu.builds.get("b")
        proxies = Proxies.load({"HTTP_PROXY": proxy.url})
        async with storage_for(clock, proxies=proxies, allow_http=True) as storage:
            for url in ("http://store.test", straight.url):
                address = PartUrl(part_number=1, url=f"{url}/k?sig=1")
                await storage.put(address, Part(1, 0, 10), source, lambda _: None)
    assert (len(proxy.heads), len(straight.heads)) == (2, 2)
    assert not any(b"authorization" in head.lower() for head in proxy.heads + straight.heads)


async def test_an_injected_session_with_trust_env_sends_no_netrc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: ManualClock
) -> None:
    """It keeps its own headers and cookies, and goes by the proxy of the environment."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login MARKED password MARKED\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(serve) as proxy, raw_server(serve) as straight:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with aiohttp.ClientSession(
            trust_env=True,
            headers={"X-Gateway": "mine"},
            cookies={"door": "open"},
            cookie_jar=aiohttp.CookieJar(unsafe=True),
        ) as session:
            for url in ("http://nunu.test", straight.url):
                async with NunuClient(
                    KEY, base_url=url, allow_http=True, session=session, clock=clock
                ) as nunu:
                    await nunu.builds.get("b")
            assert not session.closed
    heads = proxy.heads + straight.heads
    assert (len(proxy.heads), len(straight.heads)) == (1, 1)
    assert not any(b"authorization" in head.lower() for head in heads)
    assert all(b"X-Gateway: mine" in head and b"door=open" in head for head in heads)


@pytest.mark.parametrize("tunnels", [False, True])
async def test_an_injected_session_keeps_its_proxy_for_uploads(
    clock: ManualClock, tunnels: bool
) -> None:
    """With its user and password; a request with an upload id does not go over the session."""
    async with (
        raw_server(serve) as own,
        aiohttp.ClientSession(
            proxy=own.url.replace("://", "://u%40x:p%3Ay@"), trust_env=tunnels
        ) as session,
        NunuClient(
            KEY, base_url="http://nunu.test", allow_http=True, session=session, clock=clock
        ) as nunu,
    ):
        await nunu.request("GET", "/builds/b", params={"upload_id": "u" * 20})
    (head,) = own.heads
    assert head.startswith(b"GET http://nunu.test/api/v1/builds/b?upload_id=uuuu")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"u@x:p:y") in head


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_auth_of_an_injected_session_keeps_to_its_base_url(
    clock: ManualClock, elsewhere: bool
) -> None:
    """With a `base_url` to that host alone, which is not the API's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp's, of `auth`
        session = aiohttp.ClientSession(
            auth=aiohttp.BasicAuth("u", "MARKED"),
            base_url="http://intranet.test/" if elsewhere else None,
        )
    async with (
        session,
        raw_server(serve) as api,
        NunuClient(KEY, base_url=api.url, session=session, clock=clock) as nunu,
    ):
        await nunu.request("GET", "/builds/b", params={"upload_id": "u" * 20})
        await nunu.builds.get("b")
    heads = [b"authorization: basic" in head.lower() for head in api.heads]
    assert heads == [not elsewhere] * 2


async def test_an_injected_session_may_not_decompress(
    clock: ManualClock,
) -> None:
    async def packed(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(answer(body=gzip.compress(BUILD), headers={"Content-Encoding": "gzip"}))

    async with (
        raw_server(packed) as api,
        aiohttp.ClientSession(auto_decompress=False) as session,
        NunuClient(KEY, base_url=api.url, session=session, clock=clock) as nunu,
    ):
        assert (await nunu.builds.get("b")).build_id == "b"


@pytest.mark.parametrize(
    ("reply", "kind", "asked"),
    [
        (answer(407, headers={"Proxy-Authenticate": "Basic"}), ProxyError, 1),
        (answer(403), ProxyError, 1),
        (answer(502), ProxyError, 5),
        (answer(503), ProxyError, 5),
    ],
    ids=["407", "403", "502", "503"],
)
async def test_a_refusal_by_a_proxy_is_a_proxy_error(
    monkeypatch: pytest.MonkeyPatch,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    reply: bytes,
    kind: type[NunuError],
    asked: int,
) -> None:
    """Nothing reached the API, so that even a POST may be sent again."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(reply)

    with caplog.at_level(logging.DEBUG):
        async with raw_server(refuse) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", with_credentials(proxy))
            async with NunuClient(KEY, base_url="https://nunu.test", clock=clock) as nunu:
                with pytest.raises(kind) as caught:
                    await nunu.runs.stop(["j"])
    assert len(proxy.heads) == asked
    assert not caught.value.sent  # type: ignore[attr-defined]
    shown_nowhere(caught.value, caplog.text)


async def test_a_proxy_that_is_not_there_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_server(serve) as proxy:
        pass
    monkeypatch.setenv("HTTPS_PROXY", with_credentials(proxy))
    with caplog.at_level(logging.DEBUG):
        async with NunuClient(KEY, base_url="https://nunu.test", clock=clock) as nunu:
            with pytest.raises(ConnectError, match=rf"the proxy 127\.0\.0\.1:{proxy.port}") as got:
                await nunu.builds.get("b")
    shown_nowhere(got.value, caplog.text)


async def test_a_silent_proxy_ends_with_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.read()

    async with raw_server(silent) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with NunuClient(
            KEY, base_url="https://nunu.test", clock=clock, timeout=Timeouts(connect=0.2)
        ) as nunu:
            with pytest.raises(ConnectError, match="connect timeout"):
                await nunu.builds.get("b")
    assert len(proxy.heads) == 5


async def test_a_tunnel_that_breaks_during_a_part_is_retried(
    clock: ManualClock, source: Source, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(1000)
        writer.transport.abort()

    async with (
        raw_server(cut, tls=server_tls) as store,
        raw_server(tunnel_to(lambda: store.port)) as proxy,
    ):
        proxies = Proxies.load({"HTTPS_PROXY": with_credentials(proxy)})
        address = PartUrl(part_number=1, url="https://nunu.test/k?sig=1")
        async with storage_for(clock, tls=client_tls, proxies=proxies, allow_http=True) as storage:
            with pytest.raises(NunuError) as caught:
                await storage.put(address, Part(1, 0, 300_000), source, lambda _: None)
        await until(lambda: len(store.heads) == 1)
    assert not isinstance(caught.value, ConnectError | StorageError)
    shown_nowhere(caught.value, "")


def shown_nowhere(error: BaseException, log: str) -> None:
    text = disclosed(error)
    for secret in SHOWN_NOWHERE:
        assert secret not in f"{text} {log}"
