"""Rows N that are no plain data: black holes, proxies, a resolver that changes its mind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from doubles import ManualClock, raw_server
from fault_case import Case
from fault_play import Played, play

from nunu_async import CertificateError, ConnectError, NunuClient, RetryPolicy, Timeouts

PASSWORD = "MARKED-p@ss:word"


@contextlib.contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """Give a port where nothing answers: its queue of connections is full, and stays so."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)  # noqa: FBT003 - the standard library's signature
            filler.connect_ex((host, port))
        yield port


@pytest.mark.parametrize("first", ["::1", "127.0.0.2"])
async def test_n3_a_dead_address_beside_a_good_one_costs_a_moment(
    tmp_path: Path, first: str
) -> None:
    """The name has two addresses, and nothing answers at the first."""
    with contextlib.ExitStack() as stack:
        began = 0.0

        async def upload(nunu: NunuClient, path: Path, played: Played) -> object:
            nonlocal began
            try:
                stack.enter_context(black_hole(first, played.server.ports["storage"]))
            except OSError:
                pytest.skip(f"no {first} here")
            began = time.monotonic()
            return await nunu.upload_build(path, name="n", platform="linux", multipart=True)

        case = Case(
            "N3",
            "dead-address",
            operation=upload,
            names={"storage": "storage.localhost"},
            resolver={"storage.localhost": [[first, "127.0.0.1"]]},
            size=10,
            requests={"put_part": 1},
            sleeps=0,
            # The sockets of the black hole are this test's own.
            allow={"I7": "the sockets of the black hole are open until the test ends"},
        )
        played = await play(case, tmp_path, soon=0.05)
        assert time.monotonic() - began < 2
        assert not [left for left in played.left if left.startswith(("task", "connection"))]


@pytest.mark.parametrize("operation", ["list", "upload"])
async def test_n4_a_black_hole_ends_with_the_connect_limit(tmp_path: Path, operation: str) -> None:
    with black_hole("127.0.0.1") as port:
        case = Case(
            "N4",
            "black-hole",
            operation=operation,
            settings={"base_url": f"http://127.0.0.1:{port}"},
            timeouts=Timeouts(connect=0.05),
            retry=RetryPolicy(attempts=2),
            error=ConnectError,
            match="no connection within the connect timeout",
            attributes={"sent": False},
            sleeps=1,
        )
        await play(case, tmp_path)


@contextlib.contextmanager
def only_old_tls() -> Iterator[int]:
    """Serve nothing newer than TLS 1.1, in a thread: asyncio's servers send no alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # which is what this is about
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    if over.is_set():
                        return
                    context.wrap_socket(sock, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            socket.create_connection(listener.getsockname()).close()  # wakes it on any system
            thread.join()


async def test_n17_tls_that_is_too_old_is_refused_at_once(tmp_path: Path) -> None:
    with only_old_tls() as port:
        case = Case(
            "N17",
            "old-tls",
            tls="good",
            settings={"base_url": f"https://127.0.0.1:{port}"},
            error=CertificateError,
            attributes={"sent": False},
            requests={"api": 0},
            sleeps=0,
        )
        await play(case, tmp_path)


@attrs.define
class Proxy:
    """A CONNECT proxy that leads every name to one server, and drops one tunnel."""

    ports: dict[str, int] = attrs.field(factory=dict)
    drops: int | None = None
    """Bytes of the first tunnel to storage after which it goes."""
    tunnels: list[str] = attrs.field(factory=list)

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        place = head.split(b" ")[1].decode()
        self.tunnels.append(place)
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", int(place.partition(":")[2])
        )
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        left = None
        if place.startswith("storage"):
            left, self.drops = self.drops, None
        try:
            await asyncio.gather(
                self._pipe(reader, far_writer, left), self._pipe(far_reader, writer, None)
            )
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int | None
    ) -> None:
        while block := await source.read(16 * 1024):
            if left is not None:
                left -= len(block)
                if left <= 0:
                    raise ConnectionResetError
            sink.write(block)
            await sink.drain()
        sink.close()


async def test_n19_a_tunnel_that_is_dropped_in_the_middle_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the whole upload, and nothing of the proxy's password is shown."""
    proxy = Proxy(drops=40_000)

    async with raw_server(proxy.exchange) as listening:
        password = PASSWORD.replace("@", "%40").replace(":", "%3A")
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@127.0.0.1:{listening.port}")

        case = Case(
            "N19",
            "tunnel-dropped",
            tls="good",
            names={"api": "api.nunu.test", "storage": "storage.nunu.test"},
            requests={"put_part": (3, 4), "complete_upload": 1},
            sleeps=1,
            secrets=(PASSWORD, password),
            allow={"I7": "a tunnel has two more ends in this very process, the proxy's"},
        )
        played = await play(case, tmp_path, soon=0.05)
        assert not [left for left in played.left if left.startswith("task <Task pending name='nu")]
    assert {place.partition(":")[0] for place in proxy.tunnels} == {
        "api.nunu.test",
        "storage.nunu.test",
    }


async def test_n22_a_host_that_moves_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of names goes by the case's clock, as everything does."""
    clock = ManualClock()
    monkeypatch.setattr("aiohttp.connector.monotonic", clock.monotonic)
    case = Case(
        "N22",
        "host-moves",
        clock=lambda: clock,
        names={"storage": "storage.localhost"},
        resolver={"storage.localhost": [["127.0.0.2"], ["127.0.0.1"]]},
        requests={"put_part": 3},
    )
    played = await play(case, tmp_path)
    assert len(played.lookups) == 2
