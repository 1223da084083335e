"""Hooks that other libraries put on every aiohttp session of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from doubles import ManualClock

from nunu_async import NunuClient, NunuError
from nunu_async.sandbox import Sandbox

PART = 64 * 1024


class Hooks:
    """What OpenTelemetry and Sentry do: a trace for each session, and a header in each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.config = aiohttp.TraceConfig()
        self.config.on_request_start.append(self._begun)

    async def _begun(self, _session: object, _context: object, params: Any) -> None:
        params.headers["traceparent"] = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        self.seen.append((params.method, str(params.url)))

    def paths(self) -> list[str]:
        return [f"{method} {url.partition('/api/v1')[2]}" for method, url in self.seen]


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hooks]:
    """Hooks on all sessions made in this test, in one list that they all share."""
    hooks = Hooks()
    shared = [hooks.config]
    plain = aiohttp.ClientSession.__init__

    def patched(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        kwargs["trace_configs"] = shared
        kwargs.setdefault("headers", {"baggage": "everywhere"})
        plain(self, *args, **kwargs)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", patched)
    yield hooks
    assert shared == [hooks.config]  # it belongs to other sessions as well


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_no_hook_sees_a_signature_or_an_upload_id(
    hooks: Hooks,
    clock: ManualClock,
    make_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
    late: bool,
) -> None:
    """Neither one that was there when a session was made, nor one that came later."""
    path = make_file(3 * PART)
    sessions: list[aiohttp.ClientSession] = []
    made = aiohttp.ClientSession.__init__

    def listed(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        sessions.append(self)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", listed)
    async with Sandbox(part_size=PART) as box, aiohttp.ClientSession() as http:
        async with NunuClient(
            box.api_key, base_url=box.base_url, clock=clock, session=http if given else None
        ) as nunu:
            for name in ("first", "second"):
                await nunu.upload_build(path, name=name, platform="linux", multipart=True)
                if late:
                    for session in sessions:
                        session._trace_configs = [hooks.config]
                        session.headers["baggage"] = "late"
            await nunu.upload_build(path, name="third", platform="linux", multipart=False)
            ids = [upload.upload_id for upload in box.uploads.values()]
        requests = [seen for seen in box.journal if seen.origin == "storage"]
    assert len(requests) == 7
    text = repr(hooks.seen)
    assert not any(secret in text for secret in filter(None, [*ids, "X-Amz-", "upload_id"]))
    assert hooks.paths().count("POST /builds/upload") == 3
    for seen in requests:
        assert not {"traceparent", "baggage"} & set(seen.headers)


@pytest.mark.parametrize("given", [False, True])
async def test_hooks_see_the_calls_that_hold_no_secret(
    hooks: Hooks, box: Sandbox, clock: ManualClock, given: bool
) -> None:
    """Of the caller's own session once, as of ours."""
    async with (
        aiohttp.ClientSession() as http,
        NunuClient(
            box.api_key, base_url=box.base_url, clock=clock, session=http if given else None
        ) as nunu,
    ):
        await nunu.runs.list_page()
        with pytest.raises(NunuError):
            await nunu.request("GET", "/builds/upload/parts", params={"upload_id": "x" * 20})
    assert [path.partition("?")[0] for path in hooks.paths()] == ["GET /runs"]
