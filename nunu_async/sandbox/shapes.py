"""Check request bodies against the documented shapes.

Types are strict: neither true nor 1.0 is an integer, and null is not the same as absent.
Members that the API docs do not mention are accepted.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

Rule = Callable[[object, str], None]


class ShapeError(ValueError):
    """A body, or a member of it, does not match its documented shape."""


def _rule(is_valid: Callable[[Any], bool], problem: str) -> Rule:
    def check(value: object, where: str) -> None:
        if not is_valid(value):
            raise ShapeError(f"{where} must be {problem}")

    return check


def text(low: int = 0, high: int | None = None) -> Rule:
    """Require a string of `low` to `high` characters."""
    return _rule(
        lambda value: isinstance(value, str) and _is_within(len(value), low, high),
        f"a string{_bounds(low or None, high, ' characters')}",
    )


def whole(low: int | None = None, high: int | None = None) -> Rule:
    """Require an integer from `low` to `high`."""
    return _rule(
        lambda value: type(value) is int and _is_within(value, low, high),
        f"an integer{_bounds(low, high)}",
    )


def one_of(*words: str) -> Rule:
    """Require one of these strings."""
    return _rule(lambda value: value in words, f"one of {', '.join(words)}")


def many(rule: Rule, low: int = 0) -> Rule:
    """Require a list of at least `low` items that all match the rule."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, list):
            raise ShapeError(f"{where} must be a list")
        if len(value) < low:
            raise ShapeError(f"{where} must have at least {low} item")
        for index, item in enumerate(value):
            rule(item, f"{where}[{index}]")

    return check


def record(rules: Mapping[str, Rule], required: tuple[str, ...] = ()) -> Rule:
    """Require an object whose known members match their rules."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ShapeError(f"{where or 'body'} must be an object")
        prefix = f"{where}." if where else ""
        for name in required:
            if name not in value:
                raise ShapeError(f"{prefix}{name} is required")
        for name, rule in rules.items():
            if name in value:
                rule(value[name], f"{prefix}{name}")

    return check


def mapping(rule: Rule, keys: Sequence[str] | None = None) -> Rule:
    """Require an object whose values all match the rule, with keys out of `keys`."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ShapeError(f"{where} must be an object")
        for name, item in value.items():
            if keys is not None and name not in keys:
                raise ShapeError(f"{where} must be keyed by {', '.join(keys)}")
            rule(item, f"{where}.{name}")

    return check


flag = _rule(lambda value: isinstance(value, bool), "true or false")
uuid = _rule(lambda value: isinstance(value, str) and _UUID.fullmatch(value) is not None, "a UUID")


def _is_within(size: int, low: int | None, high: int | None) -> bool:
    return (low is None or size >= low) and (high is None or size <= high)


def _bounds(low: int | None, high: int | None, unit: str = "") -> str:
    if high is not None:
        return f" of {low or 0} to {high}{unit}"
    return "" if low is None else f" of at least {low}{unit}"


def _strings(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, text())


_VCS = record(
    {
        "type": one_of("git", "mercurial", "svn"),
        "provider": one_of("github", "gitlab", "bitbucket", "azure-devops"),
        "commit": record(_strings("hash", "short_hash", "message", "author", "timestamp")),
        "pr": record(
            {"number": whole(), **_strings("title", "url", "source_branch", "target_branch")}
        ),
        **_strings("repository_url", "branch", "tag"),
    }
)

_CI = record(
    {
        "system": one_of(
            "github-actions",
            "jenkins",
            "gitlab-ci",
            "circleci",
            "travis",
            "azure-pipelines",
            "bitrise",
            "custom",
        ),
        **_strings("build_number", "job_name", "run_id", "run_url", "triggered_by", "agent"),
    }
)

_DETAILS = record(
    {
        "vcs": _VCS,
        "ci": _CI,
        "app": record(
            {"version_code": whole(), **_strings("version", "build_number", "bundle_id")}
        ),
        "build": record(
            {
                "configuration": one_of("debug", "release", "staging", "production"),
                "duration": whole(),
                "dependencies": record({}),
                **_strings("timestamp", "compiler"),
            }
        ),
        "upload": record(
            {
                "method": one_of("cli", "api", "github-action", "jenkins-plugin", "web"),
                **_strings("cli_version", "uploader"),
            }
        ),
    }
)

INITIATE = record(
    {
        "project_id": text(1),
        "name": text(1, 255),
        "file_name": text(1, 255),
        "file_size": whole(1),
        "platform": one_of(
            "windows",
            "macos",
            "linux",
            "android",
            "ios-native",
            "ios-simulator",
            "xbox",
            "playstation",
        ),
        "description": text(0, 1000),
        "multipart": flag,
        "auto_delete": flag,
        "deletion_policy": one_of("least_recent", "oldest"),
        "upload_timeout": whole(1, 1440),
        "tags": many(text(1, 50)),
        "details": _DETAILS,
    },
    required=("name", "file_name", "file_size", "platform"),
)

COMPLETE = record(
    {
        "build_id": text(1),
        "upload_id": text(1),
        "object_key": text(1),
        "parts": many(
            record(
                {"part_number": whole(1), "etag": text(1)},
                required=("part_number", "etag"),
            ),
            low=1,
        ),
    },
    required=("build_id",),
)
