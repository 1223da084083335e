"""Rows C: configuration and credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fault_case import Case
from fault_play import Played
from fault_steps import answer

from nunu_async import BadRequest, InputError, NunuClient

NOT_SENT = {"requests": {"api": 0, "storage": 0}}


def netrc(places: str) -> Any:
    """Return an upload beside which a `.netrc` has an entry for every host."""

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        path.with_name(places).write_text("default login user password MARKED-PASSWORD\n")
        path.with_name(places).chmod(0o600)
        await nunu.runs.list_page()
        result = await nunu.upload_build(path, name="n", platform="linux", multipart=True)
        for seen in played.server.requests:
            names = {name.lower() for name, _ in seen.headers}
            assert "authorization" not in names
            assert "proxy-authorization" not in names
        return result

    return operation


async def field_refused(nunu: NunuClient, path: Path, played: Played) -> object:
    return await nunu.upload_build(path, name="n", platform="linux", tags=["x"])


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "platform": ("platform", {"platform": "amiga"}),
    "description-1001": ("description", {"description": 1001 * "x"}),
    "tag-51": ("tags", {"tags": [51 * "x"]}),
    "tag-empty": ("tags", {"tags": [""]}),
    "name-empty": ("name", {"name": ""}),
    "name-256": ("name", {"name": 256 * "x"}),
    "timeout-1441": ("upload_timeout", {"upload_timeout": 1441}),
    "timeout-0": ("upload_timeout", {"upload_timeout": 0}),
    "policy": ("deletion_policy", {"deletion_policy": "newest"}),
}
LONGEST = {
    "name": 255 * "x",
    "description": 1000 * "x",
    "tags": [50 * "x"],
    "upload_timeout": 1440,
}

CASES = [
    Case("C9", "netrc-variable", operation=netrc("netrc")),
    Case("C9", "netrc-at-home", operation=netrc(".netrc")),
    *[
        Case(
            "C13", name, options=options, error=InputError, attributes={"field": field}, **NOT_SENT
        )
        for name, (field, options) in WRONG.items()
    ],
    Case("C13", "as-long-as-can-be", options=LONGEST),
    Case(
        "C13",
        "refused-by-the-server",
        operation=field_refused,
        steps={
            "initiate_upload": [
                answer(
                    400,
                    {
                        "error": "Invalid project",
                        "code": "VALIDATION_ERROR",
                        "details": {"field": "project_id"},
                    },
                )
            ]
        },
        error=BadRequest,
        match="Invalid project",
        attributes={"code": "VALIDATION_ERROR", "details": {"field": "project_id"}},
        requests={"initiate_upload": 1, "cancel_upload": 0},
    ),
]
