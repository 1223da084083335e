"""Each invariant can fail: a judge who never convicts shows nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from doubles import ManualClock, until
from fault_case import Cancel, Case
from fault_invariants import Evidence, RequestSeen, UploadSeen, check_invariants, problems_of
from fault_play import play
from fault_server import KEY
from fault_steps import answer, refuse

from nunu_async import BadRequest, NotFound, NunuClient, RetryPolicy, UploadError
from nunu_async.sandbox import Sandbox

FILE = b"a build"
SHA256 = hashlib.sha256(FILE).hexdigest()


def seen(operation: str, moment: int, **more: Any) -> RequestSeen:
    usual: dict[str, Any] = {
        "origin": "storage" if operation == "put_part" else "api",
        "operation": operation,
        "build_id": "b",
        "part_number": 1 if operation == "put_part" else None,
        "headers": {"host"},
        "status": 200,
        "effect": True,
        "arrived": moment,
        "ended": moment + 1,
    }
    return RequestSeen(**(usual | more))


def upload(**more: Any) -> UploadSeen:
    usual = {"build_id": "b", "state": "completed", "completions": 1, "sha256": SHA256}
    return UploadSeen(**(usual | more))


BEGIN, PUT, COMPLETE = seen("initiate_upload", 1), seen("put_part", 3), seen("complete_upload", 5)
GOOD = Evidence(requests=[BEGIN, PUT, COMPLETE], uploads=[upload()], content=FILE)
CANCELLED = [upload(state="cancelled", completions=0, sha256=None)]
LOST = seen("complete_upload", 5, status=None, effect=False)
REFUSED = seen("complete_upload", 5, status=400, effect=False)
DELETE = seen("cancel_upload", 9)


def test_an_upload_that_went_well_breaks_nothing() -> None:
    check_invariants(GOOD)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"uploads": [upload(state="uploading")]}, "I1"),
        ({"uploads": [upload(state="expired")]}, "I1"),
        ({"uploads": [upload(completions=2)]}, "I2"),
        ({"requests": [BEGIN, seen("initiate_upload", 2), PUT, COMPLETE]}, "I2"),
        ({"requests": [BEGIN, PUT, COMPLETE, DELETE]}, "I3"),
        ({"requests": [BEGIN, PUT, LOST, DELETE], "uploads": CANCELLED}, "I3"),
        (
            {
                "requests": [BEGIN, PUT, attrs.evolve(REFUSED, ended=99), DELETE],
                "uploads": CANCELLED,
            },
            "I3",
        ),
        ({"content": b"another"}, "I4"),
        ({"requests": [BEGIN, seen("put_part", 3, headers={"x-api-key"}), COMPLETE]}, "I5"),
        (
            {"requests": [BEGIN, PUT, seen("unknown", 4, origin="foreign", headers={"cookie"})]},
            "I5",
        ),
        ({"secrets": ["key"], "texts": {"log": "the key"}}, "I6"),
        ({"left": ["a task"]}, "I7"),
        ({"policy": RetryPolicy(), "sleeps": [-1.0]}, "I8"),
        ({"policy": RetryPolicy(), "sleeps": [181.0]}, "I8"),
        ({"policy": RetryPolicy(attempts=1), "requests": [BEGIN, BEGIN, PUT, COMPLETE]}, "I8"),
        ({"policy": RetryPolicy(part_attempts=1), "requests": [BEGIN, *5 * [PUT], COMPLETE]}, "I8"),
        ({"policy": RetryPolicy(), "seconds": 2.0, "longest": 1.0}, "I8"),
        (
            {
                "requests": [BEGIN, PUT, attrs.evolve(DELETE, alive_puts=1)],
                "uploads": CANCELLED,
            },
            "I9",
        ),
        ({"requests": [BEGIN, DELETE, seen("put_part", 11)], "uploads": CANCELLED}, "I9"),
        ({"secrets": ["sig"], "hooked": "PUT https://s.test/?sig"}, "I10"),
        ({"printed": "no\n::error::x"}, "I11"),
        ({"printed": "no ##vso[task.complete result=Failed]"}, "I11"),
    ],
)
def test_each_invariant_can_be_broken(changes: dict[str, Any], broken: str) -> None:
    evidence = attrs.evolve(GOOD, **changes)
    assert broken in {problem.split()[0] for problem in problems_of(evidence)}
    with pytest.raises(AssertionError, match=broken):
        check_invariants(evidence)


@pytest.mark.parametrize(
    "requests",
    [
        [BEGIN, PUT, REFUSED, DELETE],
        [BEGIN, PUT, LOST, seen("get_build", 7), DELETE],
        [BEGIN, PUT, LOST, seen("complete_upload", 7, status=404, effect=False), DELETE],
    ],
)
def test_a_settled_complete_may_be_deleted(requests: list[RequestSeen]) -> None:
    check_invariants(attrs.evolve(GOOD, requests=requests, uploads=CANCELLED))


def test_what_a_row_allows_is_no_failure() -> None:
    left = attrs.evolve(GOOD, uploads=[upload(state="uploading")])
    check_invariants(attrs.evolve(left, allowed={"I1": "left to the server"}))


async def test_a_sandbox_is_judged_alike(box: Sandbox, make_file: Callable[..., Path]) -> None:
    path = make_file(300_000)
    async with NunuClient(box.api_key, base_url=box.base_url, clock=ManualClock()) as nunu:
        await nunu.upload_build(path, name="n", platform="linux", multipart=True)
        check_invariants(Evidence.of_sandbox(box, content=path.read_bytes()))
        with pytest.raises(AssertionError, match="I4"):
            check_invariants(Evidence.of_sandbox(box, content=b"another"))


KEPT: list[Any] = []


async def logs_the_key(nunu: NunuClient, path: Path, played: Any) -> None:
    logging.getLogger("anything").debug("key %s", KEY)


async def raises_the_key(nunu: NunuClient, path: Path, played: Any) -> None:
    try:
        raise ValueError(KEY)
    except ValueError as error:
        raise LookupError("elsewhere") from error


async def forgets_a_task(nunu: NunuClient, path: Path, played: Any) -> None:
    KEPT.append(asyncio.ensure_future(asyncio.Event().wait()))


async def forgets_a_connection(nunu: NunuClient, path: Path, played: Any) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", played.server.ports["storage"])
    writer.write(b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
    await until(lambda: played.server.requests)
    KEPT.append(writer)


async def forgets_a_file(nunu: NunuClient, path: Path, played: Any) -> None:
    KEPT.append(path.open("rb"))


async def forgets_an_error(nunu: NunuClient, path: Path, played: Any) -> None:
    asyncio.get_running_loop().create_future().set_exception(ValueError("unheard"))


async def warns(nunu: NunuClient, path: Path, played: Any) -> None:
    warnings.warn("unclosed", ResourceWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("deed", "broken"),
    [
        (logs_the_key, "I6 secret in log"),
        (raises_the_key, "I6 secret in error"),
        (forgets_a_task, "I7 left: task"),
        (forgets_a_connection, "I7 left: connection"),
        pytest.param(
            forgets_a_file,
            "I7 left: descriptor",
            marks=pytest.mark.skipif(
                not Path("/proc/self/fd").exists(), reason="this system lists no open descriptors"
            ),
        ),
        (forgets_an_error, "I7 left: .*never retrieved"),
        (warns, "I7 left: warning"),
    ],
)
async def test_what_a_client_would_leave_is_found(
    deed: Callable[..., Any], broken: str, tmp_path: Path
) -> None:
    error = LookupError if deed is raises_the_key else None
    try:
        with pytest.raises(AssertionError, match=broken):
            await play(Case("X0", "leak", operation=deed, error=error), tmp_path, soon=0.1)
    finally:
        for kept in KEPT:
            if isinstance(kept, asyncio.Task):
                kept.cancel()
                await asyncio.wait({kept})
            else:
                kept.close()
        KEPT.clear()


async def test_a_wrong_count_fails_the_case(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="of put_part"):
        await play(Case("X0", "count", requests={"put_part": 4}), tmp_path)


async def test_another_error_than_expected_fails_the_case(tmp_path: Path) -> None:
    steps = {"initiate_upload": [answer(400, {"error": "no"})]}
    with pytest.raises(BadRequest):
        await play(Case("X0", "error", steps=steps, error=NotFound), tmp_path)


async def test_success_where_an_error_is_expected_fails_the_case(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was expected"):
        await play(Case("X0", "success", error=NotFound), tmp_path)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("moment", ["arrived", "read", "answered"])
async def test_a_case_can_cancel(tmp_path: Path, moment: Any, times: int) -> None:
    case = Case(
        "X0",
        "cancel",
        cancel=Cancel(operation="put_part", part=2, moment=moment, times=times),
        error=asyncio.CancelledError,
        requests={"put_part": (1, 3), "complete_upload": 0, "cancel_upload": 1},
    )
    await play(case, tmp_path)


async def test_a_case_can_resume(tmp_path: Path) -> None:
    """What the first call has sent is not sent again."""
    case = Case(
        "X0",
        "resume",
        operation="resume",
        steps={"put_part:2": [refuse(400, "EntityTooLarge")]},
        requests={"initiate_upload": 1, "put_part:1": 1, "put_part:2": 2, "put_part:3": 1},
    )
    played = await play(case, tmp_path)
    assert type(played.first_error) is UploadError


async def test_what_a_case_calls_secret_is_searched_for(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="I6 secret in"):
        await play(Case("X0", "secret", secrets=("/builds/upload",)), tmp_path)
