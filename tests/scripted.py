"""A server on a bare socket that answers from a script, a client to it, and bodies for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from doubles import ManualClock, RawServer, answer, body_length, raw_server

from nunu_async import NunuClient

KEY = "nunu_a_key_for_tests_only_0001"
PROJECT = "pixel-harbor"

RUN = "k3v9q0zt7mx"
JOB = "9e6a1b52-0c47-4d8e-8b1f-3c5d7e9fa011"
TEST = "0d9c8b7a-6f5e-4d3c-8b2a-1908f7e6d5c4"
PLAN = "71c3e5a7-9b1d-4f2e-8a6c-4d5e6f708192"
CONFIG = "3f2e1d0c-4b5a-4697-8877-66554433aa22"
BUILD = "5b0f7c1e-2a64-4f0b-9d3c-7f1e8a90b2d4"
EXECUTION = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5f6"

Reply = bytes | None
"""An answer, byte for byte; None drops the connection instead."""


@attrs.define
class Wire:
    """What went over the wire, and the client that sent it."""

    nunu: NunuClient
    server: RawServer
    clock: ManualClock
    bodies: list[bytes]

    @property
    def lines(self) -> list[str]:
        """The request lines, without the protocol's version."""
        return [
            head.split(b"\r\n", 1)[0].decode().removesuffix(" HTTP/1.1")
            for head in self.server.heads
        ]

    def header(self, name: str, number: int = -1) -> str | None:
        """A header of one of the requests."""
        for line in self.server.heads[number].decode().split("\r\n")[1:]:
            found, _, value = line.partition(": ")
            if found.lower() == name.lower():
                return value
        return None


@asynccontextmanager
async def answered(
    *replies: Reply, reply: Callable[[str], Reply] | None = None, **settings: Any
) -> AsyncIterator[Wire]:
    """Answer requests with `replies`, the last for ever, or each with `reply(its target)`."""
    left = list(replies)
    bodies: list[bytes] = []
    clock = ManualClock()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        bodies.append(await reader.readexactly(body_length(head)))
        if reply is not None:
            data = reply(head.split(b" ", 2)[1].decode())
        else:
            data = left.pop(0) if len(left) > 1 else left[0]
        if data is None:
            writer.transport.abort()
        else:
            writer.write(data)

    async with raw_server(exchange) as server:
        usual = {"api_key": KEY, "base_url": server.url, "clock": clock} | settings
        async with NunuClient(**usual) as nunu:
            yield Wire(nunu, server, clock, bodies)


def json_answer(data: object, status: int = 200, **headers: str) -> bytes:
    """Write an answer of JSON; underscores in names of headers become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(status, json.dumps(data).encode(), named)


def page(
    rows: list[Any],
    *,
    number: int = 0,
    size: int = 20,
    count: int | None = None,
    pages: int | None = None,
) -> dict[str, Any]:
    """Make a page of a list that has as many rows as it shows, unless `count` says otherwise."""
    count = len(rows) if count is None else count
    return {
        "data": rows,
        "pagination": {
            "page": number,
            "page_size": size,
            "total_count": count,
            "total_pages": -(-count // max(size, 1)) if pages is None else pages,
        },
    }


def player(**members: Any) -> dict[str, Any]:
    return {
        "id": f"{RUN}-1",
        "state": "COMPLETED",
        "result": "FAILED",
        "player_number": 1,
        "test_name": "Shop purchase flow",
        "composite_test_id": "b7a69584-7362-4150-8f3e-2d1c0b9a8877",
        "step_count": 2,
        "completed_step_count": 1,
        "platform": {
            "kind": "android-native",
            "config": {"device": {"name": "Pixel 9", "os_version": "15"}},
        },
    } | members


def run(**members: Any) -> dict[str, Any]:
    """Make a row of the list of runs, as the service has written them since March 2026."""
    is_over = str(members.get("state", "COMPLETED")).lower() == "completed"
    return {
        "multiplayer_run_id": RUN,
        "job_id": JOB,
        "project_id": PROJECT,
        "state": "COMPLETED",
        "result": "FAILED",
        "bug_info": {"bug_label": "BUG", "bug_count": 1},
        "test": {"id": TEST, "name": "Shop purchase flow", "type": "verification"},
        "build": {"id": BUILD, "name": "harbor-2.4.0-rc3"},
        "created_at": "2026-04-11T06:12:03.114520+00:00",
        "started_at": "2026-04-11T06:12:31.800112+00:00",
        "completed_at": "2026-04-11T06:19:02.431007+00:00" if is_over else None,
        "duration_ms": 390630.895,
        "initiator": {"type": "api", "value": {"key_id": "e4d3c2b1-a098-4876-8543-21f0e9d8c7b6"}},
        "tags": ["nightly"],
        "players": [player()],
    } | members


def step(**members: Any) -> dict[str, Any]:
    return {
        "step_number": 1,
        "start_time": "2026-04-11T06:12:31.800112+00:00",
        "end_time": "2026-04-11T06:15:10.000000+00:00",
        "duration_ms": 158199,
        "run_state": "COMPLETED",
        "run_result": "SUCCESS",
        "report": "Shop opened.",
        "test": {
            "test_step_id": "step-1",
            "goal": "Open the shop",
            "finish_condition": "",
            "test_type": "verification",
        },
    } | members


def artifact(**members: Any) -> dict[str, Any]:
    return {
        "filename": "recording.mp4",
        "url": "https://files.example.test/recording.mp4?sig=a1b2c3d4e5f6",
        "size": 18874368,
        "uploaded_at": "2026-04-11T06:19:40.000000+00:00",
    } | members


def details(**members: Any) -> dict[str, Any]:
    """Make a run with its steps and artifacts."""
    players = [player(artifacts=[artifact()], steps=[step()])]
    more = {"templating_enabled": True, "template_data": {"currency": "CHF"}}
    return run(players=players) | more | members


def bug(**members: Any) -> dict[str, Any]:
    return {
        "id": "1f0e9d8c-7b6a-4958-8473-625140f3e2d1",
        "bug_id": "aa00bb11-cc22-4d33-8e44-ff5566778899",
        "title": "Lantern price shows 0",
        "description": "Label stays at zero.",
        "category": "ui",
        "severity": "high",
        "confidence": "medium",
        "reproduction_steps": "1. Open shop\n2. Look",
        "player_number": 0,
        "test_step": 2,
        "turn": 11,
        "detected_at": "2026-04-11T06:17:44.120000+00:00",
    } | members


def execution(**members: Any) -> dict[str, Any]:
    return {
        "id": EXECUTION,
        "test_plan_id": PLAN,
        "test_plan_name": "Release gate",
        "build_id": BUILD,
        "build_name": "harbor-2.4.0-rc3",
        "status": "in_progress",
        "started_at": "2026-04-11T06:10:00.000000+00:00",
        "started_by": "qa@harbor.example",
        "completed_at": None,
        "total_tests": 6,
        "test_status": {"passed": 3, "failed": 1, "stopped": 0, "queued": 1, "running": 1},
        "duration_ms": None,
    } | members


STOPPED = {
    "ok": False,
    "message": "Stopped 1/2 job(s)",
    "received_count": 2,
    "stopped_count": 1,
    "results": [
        {"job_id": JOB, "ok": True, "status": 200, "message": "Job stopped"},
        {"job_id": "j-2", "ok": False, "status": 500, "error": "Job already completed"},
    ],
}
STARTED = {"message": "queued", "build_id": BUILD, "job_ids": [JOB]}

# What may come instead of the answer to a request on which the server has acted.
LOST_ANSWERS: dict[str, Reply] = {
    "dropped": None,
    "500": json_answer({"error": "oops"}, 500),
    "502": answer(502, b"<html>"),
    "504": answer(504),
    "520": answer(520),
    "408": answer(408),
    "no json": answer(200, b"<html>"),
    "empty": answer(200, b""),
    "no ids": json_answer({"upload_type": "multipart"}),
}
