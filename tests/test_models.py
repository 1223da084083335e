"""The documented limits of an upload, and what its models show."""

import json
from typing import Any

import pytest

from nunu_async.core import codec
from nunu_async.errors import InputError
from nunu_async.models.builds import (
    AppDetails,
    BuildDetails,
    CiDetails,
    CommitDetails,
    CompilationDetails,
    CompletedPart,
    InitiateUpload,
    MultipartTicket,
    PartUrl,
    PullRequestDetails,
    SinglePartTicket,
    UploadDetails,
    VcsDetails,
)
from nunu_async.models.choices import PLATFORMS

LEAST: dict[str, Any] = {
    "name": "harbor",
    "file_name": "harbor.zip",
    "file_size": 1,
    "platform": "linux",
}
SECRET = "a1b2c3d4e5f6"


def initiate(**members: Any) -> InitiateUpload:
    return InitiateUpload(**(LEAST | members))


@pytest.mark.parametrize("field", ["name", "file_name"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a", id="1 character"),
        pytest.param("a" * 255, id="255 characters"),
        pytest.param("ü" * 255, id="255 characters in 510 bytes"),
        pytest.param("harbor 2.4 (nightly) 'x' \"y\" -- ../z", id="ASCII"),
        pytest.param("Grüße, 世界.zip", id="other scripts"),
        pytest.param("e\u0301.zip", id="combining character"),
        pytest.param("10.00\u202fPM.zip", id="narrow no-break space, as in macOS file names"),
        pytest.param("a\xa0b", id="no-break space"),
        pytest.param("港\u3000口", id="ideographic space"),
        pytest.param("\U0001f468\u200d\U0001f680", id="joined emoji"),
    ],
)
def test_a_name_within_the_limits_is_accepted(field: str, value: str) -> None:
    assert getattr(initiate(**{field: value}), field) == value


@pytest.mark.parametrize("field", ["name", "file_name"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 256, id="256 characters"),
        pytest.param("a\x00b", id="NUL"),
        pytest.param("a\nb", id="newline"),
        pytest.param("a\r\nb", id="CR LF"),
        pytest.param("\x1b[2J", id="escape sequence"),
        pytest.param("a\x7f", id="DEL"),
        pytest.param("a\x9b1m", id="C1 control"),
        pytest.param("a\u2028b", id="line separator"),
        pytest.param("\u202epiz.exe", id="direction override"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("\udcff.zip", id="undecodable byte"),
        pytest.param(None, id="null"),
        pytest.param(5, id="number"),
        pytest.param(b"harbor", id="bytes"),
    ],
)
def test_a_name_outside_the_limits_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        initiate(**{field: value})
    assert refused.value.field == field


@pytest.mark.parametrize("size", [1, 2**63, 5 * 10**12])
def test_a_size_of_one_byte_or_more_is_accepted(size: int) -> None:
    assert initiate(file_size=size).file_size == size


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_documented_platform_is_accepted(platform: str) -> None:
    assert initiate(platform=platform).platform == platform


def test_the_documented_platforms_are_these() -> None:
    assert set(PLATFORMS) == {
        "windows",
        "macos",
        "linux",
        "android",
        "ios-native",
        "ios-simulator",
        "xbox",
        "playstation",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", None),
        ("description", ""),
        ("description", "a" * 1000),
        ("description", "two\nlines"),
        ("multipart", True),
        ("multipart", False),
        ("multipart", None),
        ("auto_delete", True),
        ("deletion_policy", "least_recent"),
        ("deletion_policy", "oldest"),
        ("deletion_policy", None),
        ("upload_timeout", 1),
        ("upload_timeout", 1440),
        ("upload_timeout", None),
        ("tags", ()),
        ("tags", ("a",)),
        ("tags", ("a" * 50, "b")),
    ],
)
def test_a_value_at_the_edge_of_its_limits_is_accepted(field: str, value: Any) -> None:
    assert getattr(initiate(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("file_size", value) for value in (0, -1, True, 1.5, 1.0, "1", None)),
        *(("platform", value) for value in ("web", "Windows", "", None, ["linux"], 5)),
        *(("description", value) for value in ("a" * 1001, "\ud800", 5, b"x")),
        *(("multipart", value) for value in (1, 0, "true")),
        *(("auto_delete", value) for value in (1, "true", None)),
        *(("deletion_policy", value) for value in ("newest", "", "least-recent", True)),
        *(("upload_timeout", value) for value in (0, -1, 1441, True, 1.5, "60")),
        *(("tags", value) for value in ("rc", "", [""], ["a" * 51], ["a", 5], [None], ["\ud800"])),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        initiate(**{field: value})
    assert refused.value.field == field


def test_a_refusal_lists_the_platforms() -> None:
    with pytest.raises(InputError) as refused:
        initiate(platform="web")
    assert all(platform in str(refused.value) for platform in PLATFORMS)


def test_tags_of_a_list_become_a_tuple() -> None:
    assert initiate(tags=["a", "b"]).tags == ("a", "b")


def test_an_upload_of_the_least_says_only_that() -> None:
    assert codec.dump(initiate()) == LEAST


@pytest.mark.parametrize(
    ("members", "dumped"),
    [
        ({"multipart": False}, {"multipart": False}),
        ({"multipart": True}, {"multipart": True}),
        ({"auto_delete": True}, {"auto_delete": True}),
        ({"auto_delete": False}, {}),
        ({"deletion_policy": "oldest"}, {"deletion_policy": "oldest"}),
        ({"description": ""}, {"description": ""}),
        ({"upload_timeout": 60}, {"upload_timeout": 60}),
        ({"project_id": "harbor"}, {"project_id": "harbor"}),
        ({"tags": ["a", "b"]}, {"tags": ["a", "b"]}),
        ({"tags": []}, {}),
        ({"description": None, "details": None, "multipart": None}, {}),
    ],
)
def test_only_what_was_said_goes_out(members: dict[str, Any], dumped: dict[str, Any]) -> None:
    assert json.loads(codec.encode(codec.dump(initiate(**members)))) == LEAST | dumped


def test_details_go_out_without_what_they_leave_open() -> None:
    details = BuildDetails(
        vcs=VcsDetails(
            type="git", commit=CommitDetails(hash="abc"), pr=PullRequestDetails(number=4)
        ),
        ci=CiDetails(system="custom"),
        app=AppDetails(version_code=7),
        build=CompilationDetails(dependencies={"unity": "6000.1", "plugins": [{"a": None}]}),
        upload=UploadDetails(method="api"),
    )
    assert json.loads(codec.encode(codec.dump(initiate(details=details))))["details"] == {
        "vcs": {"type": "git", "commit": {"hash": "abc"}, "pr": {"number": 4}},
        "ci": {"system": "custom"},
        "app": {"version_code": 7},
        "build": {"dependencies": {"unity": "6000.1", "plugins": [{"a": None}]}},
        "upload": {"method": "api"},
    }


def test_details_that_went_out_can_be_read_back() -> None:
    details = BuildDetails(
        vcs=VcsDetails(branch="main", commit=CommitDetails(author="qa")),
        build=CompilationDetails(duration=90, dependencies={"unity": "6000.1"}),
    )
    raw = codec.encode(codec.dump(details))
    assert codec.structure(codec.parse(raw), BuildDetails) == details


def test_a_completed_part_goes_out_with_both_members() -> None:
    assert codec.dump(CompletedPart(part_number=1, etag="")) == {"part_number": 1, "etag": ""}


@pytest.mark.parametrize(
    "model",
    [
        SinglePartTicket(
            build_id="b", object_key="k", upload_url=f"https://s.example/?sig={SECRET}"
        ),
        MultipartTicket(build_id="b", object_key="k", total_parts=1, part_size=1, upload_id=SECRET),
        PartUrl(part_number=1, url=f"https://s.example/?sig={SECRET}"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_as_good_as_a_password_is_not_shown(model: object) -> None:
    assert SECRET not in f"{model} {model!r} {[model]}"
