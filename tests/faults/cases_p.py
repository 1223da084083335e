"""Rows P: cancellation, and clients that are closed too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doubles import until
from fault_case import PART, Cancel, Case
from fault_play import OPERATIONS, Played
from fault_server import MIB, Moment, Seen
from fault_steps import Step, answer, fin, hold, refuse, rst, serve, stop_reading

from nunu_async import BuildFile, ClientClosed, Completing, NunuClient, UploadError

CANCELLED = asyncio.CancelledError
HTML = "<html>502 Bad Gateway</html>"
UNHEARD = {"I1": "left to the server: no answer ever named the build"}
UNSETTLED = {"I1": "left to the server: a complete without an answer may have worked"}


def _noted(words: str) -> Callable[[Played], None]:
    def look(played: Played) -> None:
        assert words in "".join(getattr(played.error, "__notes__", ())), played.error

    return look


# --- P1: while the reservation is under way

P1 = [
    Case(
        "P1",
        variant,
        steps={"initiate_upload": [step]},
        cancel=Cancel(operation="initiate_upload", moment="stuck"),
        error=CANCELLED,
        requests={"initiate_upload": 1, "storage": 0, "cancel_upload": cancels},
        seconds=seconds,
        allow=allow,
    )
    for variant, step, cancels, seconds, allow in (
        ("answered-soon", serve(delay=3.0), 1, (3.0, 8.0), {}),
        ("refused-soon", answer(402, {"error": "full"}, delay=3.0), 0, (3.0, 8.0), {}),
        ("failed-soon", answer(500, {"error": "no"}, delay=3.0), 0, (3.0, 8.0), {}),
        ("busy-soon", answer(503, {"error": "no"}, delay=3.0), 0, (3.0, 8.0), {}),
        ("never-answered", hold(), 0, (8.0, 16.0), {}),
        ("done-and-never-answered", hold(effect=True), 0, (8.0, 16.0), UNHEARD),
    )
]
P1 += [
    Case(
        "P1",
        f"at-{moment}",
        steps={"initiate_upload": [step]},
        cancel=Cancel(operation="initiate_upload", moment=moment),
        error=CANCELLED,
        requests={"initiate_upload": 1, "storage": 0, "cancel_upload": 1},
    )
    for moment, step in (("arrived", serve()), ("read", serve()), ("answered", serve()))
]
P1 += [
    Case(
        "P1",
        "single-part",
        operation="single",
        steps={"initiate_upload": [serve(delay=3.0)]},
        cancel=Cancel(operation="initiate_upload", moment="stuck"),
        error=CANCELLED,
        requests={"storage": 0, "cancel_upload": 1},
    ),
    Case(
        "P1",
        "auto-delete",
        steps={"initiate_upload": [hold(effect=True)]},
        options={"auto_delete": True},
        cancel=Cancel(operation="initiate_upload", moment="stuck"),
        error=CANCELLED,
        requests={"initiate_upload": 1, "cancel_upload": 0},
        allow=UNHEARD,
    ),
    # A ticket that makes no sense names a build all the same.
    Case(
        "P1",
        "answered-with-nonsense",
        steps={
            "initiate_upload": [serve(delay=3.0, edit=lambda sent: sent | {"total_parts": None})]
        },
        cancel=Cancel(operation="initiate_upload", moment="stuck"),
        error=CANCELLED,
        requests={"storage": 0, "cancel_upload": 1},
    ),
]

# --- P2, P3: while parts are sent, and between the last of them and completing

_AT: dict[str, tuple[Step, Moment]] = {
    "first-byte": (serve(), "arrived"),
    "no-byte-taken": (stop_reading(0), "stuck"),
    "middle": (stop_reading("half"), "stuck"),
    "last-byte": (stop_reading("last"), "stuck"),
    "whole-and-unanswered": (hold(), "stuck"),
    "stored-and-unanswered": (hold(effect=True), "stuck"),
    "answered": (serve(), "answered"),
    "refused": (refuse(503, "SlowDown"), "answered"),
}
P2 = [
    Case(
        "P2",
        f"{variant}-of-part-{part}",
        steps={f"put_part:{part}": [step]},
        cancel=Cancel(operation="put_part", moment=moment, part=part),
        error=CANCELLED,
        requests={f"put_part:{part}": 1, "complete_upload": 0, "cancel_upload": 1},
        also=_noted("was cancelled on the server"),
    )
    for variant, (step, moment) in _AT.items()
    for part in ((1, 2) if variant in {"middle", "answered"} else (2,))
]
P2 += [
    Case(
        "P2",
        f"all-at-once-{variant}",
        size=4 * PART,
        options={"concurrency": 4},
        steps={"put_part": [step.always()]},
        cancel=Cancel(operation="put_part", moment=moment, nth=4),
        error=CANCELLED,
        requests={"put_part": 4, "complete_upload": 0, "cancel_upload": 1},
    )
    for variant, (step, moment) in _AT.items()
    if variant in {"middle", "whole-and-unanswered"}
]
P2 += [
    Case(
        "P2",
        "single-part",
        operation="single",
        steps={"put_part": [stop_reading("half")]},
        cancel=Cancel(operation="put_part", moment="stuck"),
        error=CANCELLED,
        requests={"put_part": 1, "complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "P2",
        "verified",
        operation="verify",
        steps={"put_part:2": [stop_reading("half")]},
        cancel=Cancel(operation="put_part", moment="stuck", part=2),
        error=CANCELLED,
        requests={"complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "P2",
        "over-tls",
        tls="good",
        steps={"put_part:2": [stop_reading("half")]},
        cancel=Cancel(operation="put_part", moment="stuck", part=2),
        error=CANCELLED,
        requests={"complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "P2",
        "while-asking-for-urls",
        steps={"get_upload_parts": [hold()]},
        cancel=Cancel(operation="get_upload_parts", moment="stuck"),
        error=CANCELLED,
        requests={"put_part": 0, "cancel_upload": 1},
    ),
    Case(
        "P2",
        "and-the-delete-fails",
        steps={
            "put_part:2": [stop_reading("half")],
            "cancel_upload": [answer(500, HTML).always()],
        },
        cancel=Cancel(operation="put_part", moment="stuck", part=2),
        error=CANCELLED,
        requests={"cancel_upload": 7},
        also=_noted("could not be cancelled"),
        allow={"I1": "left to the server: it would not cancel"},
    ),
]


def _one_or_the_other(played: Played) -> None:
    assert played.server.count("complete_upload") + played.server.count("cancel_upload") == 1


async def _cancel_at_completing(nunu: NunuClient, path: Path, played: Played) -> object:
    task = asyncio.current_task()
    assert task is not None

    def listen(event: object) -> None:
        if isinstance(event, Completing):
            task.cancel()

    return await nunu.upload_build(
        path, name="n", platform="linux", multipart=True, on_progress=listen
    )


P3 = [
    Case(
        "P3",
        "last-part-answered",
        cancel=Cancel(operation="put_part", moment="answered", nth=3),
        error=CANCELLED,
        requests={"put_part": 3, "complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "P3",
        "single-part-answered",
        operation="single",
        cancel=Cancel(operation="put_part", moment="answered"),
        error=CANCELLED,
        requests={"put_part": 1, "complete_upload": 0, "cancel_upload": 1},
    ),
]

P3 += [
    # On a loop with eager tasks the complete is on its way by then, and is awaited.
    Case(
        "P3",
        "when-completing-is-announced",
        operation=_cancel_at_completing,
        error=CANCELLED,
        requests={"put_part": 3, "complete_upload": (0, 1), "cancel_upload": (0, 1)},
        also=_one_or_the_other,
    ),
]

# --- P4: while completing is under way

P4 = [
    Case(
        "P4",
        variant,
        steps={"complete_upload": [step]},
        cancel=Cancel(operation="complete_upload", moment="stuck"),
        error=CANCELLED,
        requests={"complete_upload": 1, "get_build": looks, "cancel_upload": cancels},
        seconds=seconds,
        also=_noted(note),
        allow=allow,
    )
    for variant, step, looks, cancels, seconds, note, allow in (
        ("answered-soon", serve(delay=3.0), 0, 0, (3.0, 8.0), "is complete", {}),
        ("done-and-unanswered", hold(effect=True), 0, 0, (8.0, 16.0), "may be complete", {}),
        ("unanswered", hold(), 0, 0, (8.0, 16.0), "may be complete", UNSETTLED),
        (
            "refused-soon",
            answer(400, {"error": "InvalidPart"}, delay=3.0),
            *(1, 1, (3.0, 8.0), "was cancelled", {}),
        ),
        (
            "failed-soon",
            answer(500, {"error": "no"}, delay=3.0),
            *(1, 1, (3.0, 8.0), "was cancelled", {}),
        ),
        (
            "edge-gave-up-soon",
            answer(504, HTML, delay=3.0),
            *(1, 0, (3.0, 8.0), "may be complete", UNSETTLED),
        ),
        (
            "done-and-edge-gave-up-soon",
            answer(504, HTML, delay=3.0, effect=True),
            *(1, 0, (3.0, 8.0), "is complete", {}),
        ),
    )
]
P4 += [
    Case(
        "P4",
        f"at-{moment}",
        cancel=Cancel(operation="complete_upload", moment=moment),
        error=CANCELLED,
        requests={"complete_upload": 1, "cancel_upload": 0},
        also=_noted("is complete"),
    )
    for moment in ("arrived", "read", "answered")
]
P4 += [
    # The look-up that settles a lost answer is awaited as well.
    Case(
        "P4",
        "while-settling",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [serve(delay=3.0)],
        },
        cancel=Cancel(operation="get_build", moment="stuck"),
        error=CANCELLED,
        requests={"complete_upload": 1, "cancel_upload": 0},
    ),
    Case(
        "P4",
        "single-part",
        operation="single",
        steps={"complete_upload": [fin("all", effect=True)]},
        cancel=Cancel(operation="complete_upload", moment="read"),
        error=CANCELLED,
        requests={"complete_upload": 1, "cancel_upload": 0},
        also=_noted("is complete"),
    ),
]

# --- P5 to P7: again and again, by a limit, by a sibling


def at_moments(*moments: tuple[str, Moment], times: int = 1) -> Callable[..., Any]:
    """Upload in a task of its own, and cancel it at each first of these moments."""

    async def go(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
        task = asyncio.ensure_future(OPERATIONS["upload"](nunu, path, played, **options))
        left = set(moments)

        def on_moment(moment: Moment, seen: Seen) -> None:
            if (seen.operation, moment) in left:
                left.remove((seen.operation, moment))
                for _ in range(times):
                    task.cancel()

        played.server.on_moment = on_moment
        return await task

    return go


_STUCK = {"put_part:2": [stop_reading("half")]}
P5 = [
    Case(
        "P5",
        "three-at-once",
        steps=_STUCK,
        cancel=Cancel(operation="put_part", moment="stuck", times=3),
        error=CANCELLED,
        requests={"cancel_upload": 1, "complete_upload": 0},
    ),
    *(
        Case(
            "P5",
            f"delete-{moment}",
            operation=at_moments(("put_part", "stuck"), ("cancel_upload", moment), times=2),
            steps=_STUCK,
            error=CANCELLED,
            requests={"cancel_upload": 1, "complete_upload": 0},
        )
        for moment in ("arrived", "read", "answered")
    ),
    Case(
        "P5",
        "delete-held",
        operation=at_moments(("put_part", "stuck"), ("cancel_upload", "stuck")),
        steps=_STUCK | {"cancel_upload": [serve(delay=20.0)]},
        error=CANCELLED,
        requests={"cancel_upload": 2},
        seconds=(15.0, 30.0),
    ),
    Case(
        "P5",
        "delete-failing-first",
        operation=at_moments(("put_part", "stuck"), ("cancel_upload", "answered")),
        steps=_STUCK | {"cancel_upload": [answer(503, HTML), rst("all")]},
        error=CANCELLED,
        requests={"cancel_upload": 3},
    ),
    Case(
        "P5",
        "while-hearing-a-complete-out",
        operation=at_moments(("complete_upload", "arrived"), ("complete_upload", "stuck")),
        steps={"complete_upload": [serve(delay=3.0)]},
        error=CANCELLED,
        requests={"complete_upload": 1, "cancel_upload": 0},
        also=_noted("is complete"),
    ),
    Case(
        "P5",
        "while-hearing-an-initiate-out",
        operation=at_moments(
            ("initiate_upload", "arrived"), ("initiate_upload", "stuck"), ("cancel_upload", "read")
        ),
        steps={"initiate_upload": [serve(delay=3.0)]},
        error=CANCELLED,
        requests={"initiate_upload": 1, "cancel_upload": 1},
    ),
]


def within_limit(operation: str, moment: Moment) -> Callable[..., Any]:
    """Upload within `asyncio.timeout`, whose time is up at this moment."""

    async def go(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(None) as limit:

                def on_moment(now: Moment, seen: Seen) -> None:
                    if (seen.operation, now) == (operation, moment) and not limit.expired():
                        limit.reschedule(0.0)

                played.server.on_moment = on_moment
                return await OPERATIONS["upload"](nunu, path, played, **options)
        finally:
            assert task.cancelling() == 0

    return go


P6 = [
    Case(
        "P6",
        variant,
        operation=within_limit(operation, moment),
        steps=steps,
        error=TimeoutError,
        requests={"complete_upload": completes, "cancel_upload": 1 - completes},
    )
    for variant, operation, moment, completes, steps in (
        ("initiate", "initiate_upload", "stuck", 0, {"initiate_upload": [serve(delay=3.0)]}),
        ("part", "put_part", "stuck", 0, _STUCK),
        ("part-answered", "put_part", "answered", 0, {}),
        ("complete", "complete_upload", "stuck", 1, {"complete_upload": [serve(delay=3.0)]}),
    )
]

_THREE = {"I2": "three builds are meant to be begun"}


def _ends(completed: int, cancelled: int) -> Callable[[Played], None]:
    def look(played: Played) -> None:
        builds = played.server.builds.values()
        states = sorted(build.state for build in builds)
        assert states == ["cancelled"] * cancelled + ["completed"] * completed
        assert all(build.completions <= 1 for build in builds)

    return look


async def _in_a_group(nunu: NunuClient, path: Path, played: Played) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(OPERATIONS["upload"](nunu, path, played))
    except ExceptionGroup as failures:
        (failure,) = failures.exceptions
        raise failure from None


async def _gathered(nunu: NunuClient, path: Path, played: Played) -> list[object]:
    uploads = [OPERATIONS["upload"](nunu, path, played) for _ in range(3)]
    return await asyncio.gather(*uploads, return_exceptions=True)


async def _batch(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
    files = [
        BuildFile(path=path, name=name, platform="linux", multipart=True, concurrency=1)
        for name in "abc"
    ]
    return await nunu.upload_builds(files, **options)


_ONE_FAILS = {"put_part:3": [refuse(501, "NotImplemented")]}
P7 = [
    Case(
        "P7",
        "task-group",
        operation=_in_a_group,
        # The others are at a part that the server does not read when the first is refused.
        steps={"put_part:2": [refuse(501, "NotImplemented"), stop_reading("half").repeat(2)]},
        error=UploadError,
        attributes={"cancelled": True},
        also=_ends(0, 3),
        allow=_THREE,
    ),
    Case(
        "P7",
        "gather",
        operation=_gathered,
        steps=_ONE_FAILS,
        also=_ends(2, 1),
        allow=_THREE,
    ),
    Case("P7", "batch", operation=_batch, steps=_ONE_FAILS, also=_ends(2, 1), allow=_THREE),
    Case(
        "P7",
        "batch-failing-fast",
        operation=_batch,
        options={"fail_fast": True},
        steps={"put_part:2": [refuse(501, "NotImplemented"), stop_reading("half").repeat(2)]},
        error=UploadError,
        also=_ends(0, 3),
        allow=_THREE,
    ),
    # Inside of one upload, all parts stop before the DELETE goes out.
    Case(
        "P7",
        "parts",
        size=4 * PART,
        options={"concurrency": 4},
        steps={
            "put_part:4": [refuse(501, "NotImplemented")],
            "put_part": [stop_reading("half").repeat(3)],
        },
        error=UploadError,
        attributes={"part_number": 4, "cancelled": True},
        requests={"put_part": (2, 4), "complete_upload": 0, "cancel_upload": 1},
    ),
]

# --- P11: a client that is closed meanwhile


def closed_at(operation: str, moment: Moment, *, times: int = 1) -> Callable[..., Any]:
    """Close the client, so often at once, at this moment of an upload."""

    async def go(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
        task = asyncio.ensure_future(OPERATIONS["upload"](nunu, path, played, **options))
        closing: list[asyncio.Future[None]] = []

        def on_moment(now: Moment, seen: Seen) -> None:
            if (seen.operation, now) == (operation, moment) and not closing:
                closing.extend(asyncio.ensure_future(nunu.close()) for _ in range(times))

        played.server.on_moment = on_moment
        try:
            return await task
        finally:
            await asyncio.gather(*closing)

    return go


P11 = [
    Case(
        "P11",
        variant,
        operation=closed_at(operation, moment, times=times),
        steps=steps,
        error=ClientClosed,
        match=words,
        requests={"complete_upload": completes, "cancel_upload": 1 - completes},
    )
    for variant, operation, moment, times, completes, words, steps in (
        (
            "initiating",
            "initiate_upload",
            "stuck",
            1,
            0,
            "closed while uploading",
            {"initiate_upload": [serve(delay=3.0)]},
        ),
        ("sending", "put_part", "stuck", 1, 0, "was cancelled on the server", _STUCK),
        ("sending-closed-twice", "put_part", "stuck", 2, 0, "was cancelled", _STUCK),
        (
            "completing",
            "complete_upload",
            "stuck",
            1,
            1,
            "is complete",
            {"complete_upload": [serve(delay=3.0)]},
        ),
        (
            "completed-and-unheard",
            "complete_upload",
            "stuck",
            1,
            1,
            "may be complete",
            {"complete_upload": [hold(effect=True)]},
        ),
    )
]


async def _close_then_use(nunu: NunuClient, path: Path, played: Played) -> None:
    await nunu.close()
    for use in ("list", "start", "stop", "get_build"):
        try:
            await OPERATIONS[use](nunu, path, played)
        except ClientClosed:
            continue
        raise AssertionError(f"{use} worked")
    await OPERATIONS["upload"](nunu, path, played)


P11 += [
    Case(
        "P11",
        "used-afterwards",
        operation=_close_then_use,
        error=ClientClosed,
        requests={"api": 0, "storage": 0},
    ),
]

# --- P13: what is cancelled sends no more


def _little_came(played: Played) -> None:
    (put,) = played.server.of("put_part")
    # What the kernels of both ends held; a body in memory would arrive whole.
    assert put.received < 8 * MIB


P13 = [
    Case(
        "P13",
        variant,
        operation="upload",
        size=32 * MIB,
        tls=tls,
        server={"part_size": 32 * MIB},
        steps={"put_part": [stop_reading(64 * 1024)]},
        cancel=Cancel(operation="put_part", moment="stuck"),
        error=CANCELLED,
        requests={"put_part": 1, "cancel_upload": 1},
        also=_little_came,
    )
    for variant, tls in (("plain", None), ("tls", "good"))
]

# --- P14: loops that are left


async def _leave_the_list(nunu: NunuClient, path: Path, played: Played) -> None:
    async for _ in nunu.runs.list(page_size=1):
        break
    async for _ in nunu.runs.list(page_size=1).pages():
        break
    listing = nunu.runs.list(page_size=1)
    await anext(listing)


async def _cancel_the_list(nunu: NunuClient, path: Path, played: Played) -> None:
    async def walk() -> None:
        async for _ in nunu.runs.list(page_size=1):
            pass

    task = asyncio.ensure_future(walk())
    await until(lambda: played.server.stuck)
    task.cancel()
    await task


async def _leave_a_wait(nunu: NunuClient, path: Path, played: Played) -> None:
    waiting = nunu.jobs_as_completed(["job-1", "job-2"])
    async for job in waiting:
        assert job.job_id == "job-1"
        break
    await waiting.aclose()


_ROW = {
    "multiplayer_run_id": "1g20ccrgksb",
    "project_id": "p",
    "state": "RUNNING",
    "created_at": "2026-04-11T06:12:03.114520+00:00",
    "test": {"id": "t", "name": "t", "type": "verification"},
    "initiator": {"type": "api"},
    "players": [],
}
_PAGES = {"page": 0, "page_size": 1, "total_count": 50, "total_pages": 50}
_ROWS = answer(200, {"data": [_ROW], "pagination": _PAGES})


def _job(name: str, status: str) -> Step:
    created = "2026-04-11T06:12:03.114520+00:00"
    return answer(200, {"job_id": name, "status": status, "created_at": created, "runs": []})


P14 = [
    Case(
        "P14",
        "list",
        operation=_leave_the_list,
        steps={"list_runs": [_ROWS.always()]},
        requests={"list_runs": 3},
    ),
    Case(
        "P14",
        "list-cancelled",
        operation=_cancel_the_list,
        steps={"list_runs": [_ROWS, hold()]},
        error=CANCELLED,
        requests={"list_runs": 2},
    ),
    Case(
        "P14",
        "waiting",
        operation=_leave_a_wait,
        steps={"get_job": [_job("job-1", "COMPLETED"), _job("job-2", "QUEUED").always()]},
        requests={"get_job": (1, 4)},
    ),
]

CASES = [case for row in (P1, P2, P3, P4, P5, P6, P7, P11, P13, P14) for case in row]
