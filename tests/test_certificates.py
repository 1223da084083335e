"""Certificates that the environment names are checked before they are needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme

from nunu_async import ConfigError, NunuClient


def client() -> NunuClient:
    return NunuClient("nunu_key_0001")


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\0" * 100])
async def test_a_file_without_certificates_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        client()


async def test_a_folder_in_the_place_of_a_file_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        client()


async def test_a_file_with_certificates_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere{os.pathsep}{tmp_path}")
    async with client() as nunu:
        assert "nunu.ai" in repr(nunu)


async def test_a_folder_that_is_not_there_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="SSL_CERT_DIR"):
        client()
