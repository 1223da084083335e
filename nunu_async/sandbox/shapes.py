"""Check request bodies against the documented shapes.

Types are strict: neither true nor 1.0 is an integer, and null is not the same as absent.
Members that the API docs do not mention are accepted.
"""

from collections.abc import Callable, Mapping

Rule = Callable[[object, str], None]


class ShapeError(ValueError):
    """A body, or a member of it, does not match its documented shape."""


def text(low: int = 0, high: int | None = None) -> Rule:
    """Require a string of `low` to `high` characters."""
    bounds = f" of at least {low} characters" if high is None else f" of {low} to {high} characters"

    def check(value: object, where: str) -> None:
        if not isinstance(value, str):
            raise ShapeError(f"{where} must be a string")
        if len(value) < low or (high is not None and len(value) > high):
            raise ShapeError(f"{where} must be a string{bounds}")

    return check


def whole(low: int | None = None, high: int | None = None) -> Rule:
    """Require an integer from `low` to `high`."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ShapeError(f"{where} must be an integer")
        if low is not None and value < low:
            raise ShapeError(f"{where} must be at least {low}")
        if high is not None and value > high:
            raise ShapeError(f"{where} must be at most {high}")

    return check


def one_of(*words: str) -> Rule:
    """Require one of these strings."""

    def check(value: object, where: str) -> None:
        if value not in words:
            raise ShapeError(f"{where} must be one of {', '.join(words)}")

    return check


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


def flag(value: object, where: str) -> None:
    """Require true or false."""
    if not isinstance(value, bool):
        raise ShapeError(f"{where} must be true or false")


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
