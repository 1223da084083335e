"""Uploads beside tracing libraries as they are published; skipped where they are not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = {
    "opentelemetry": "opentelemetry.instrumentation.aiohttp_client",
    "sentry_sdk": "sentry_sdk",
}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_tracing_library_sees_the_calls_and_no_secret(library: str) -> None:
    if not _is_installed(LIBRARIES[library]):
        pytest.skip(f"{library} is not installed")
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("traced_upload.py")), library],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    seen = "\n".join(result["seen"])
    assert "/api/v1/builds/upload" in seen  # the reservation
    assert "/api/v1/runs" in seen
    for secret in [*result["secrets"], "X-Amz-", "upload_id=", "/upload/parts"]:
        assert secret not in seen
    assert len(result["storage_headers"]) == 3
    for headers in result["storage_headers"]:
        assert not {"traceparent", "tracestate", "baggage", "sentry-trace"} & set(headers)
