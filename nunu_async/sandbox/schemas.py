"""Check request bodies and query parameters against JSON Schemas.

Types are strict: true and 1.0 are not integers, and null does not mean absent. Members that a
schema does not list are accepted, because the API docs do not forbid them.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from nunu_async.sandbox.http import bad_request

Schema = Mapping[str, Any]

BODIES: Mapping[str, Schema] = json.loads(files(__package__).joinpath("bodies.json").read_bytes())
"""Request body schemas, keyed by operation; they use only keywords that `check` supports."""

UUID: Schema = {"type": "string", "format": "uuid"}
TEXT: Schema = {"type": "string"}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TYPES: Mapping[str, tuple[type, str]] = {
    "array": (list, "a list"),
    "boolean": (bool, "true or false"),
    "integer": (int, "an integer"),
    "object": (dict, "an object"),
    "string": (str, "a string"),
}


def check(schema: Schema, value: Any, where: str = "") -> None:  # noqa: ANN401 - JSON
    """Check a body, or the member or parameter named `where`. Raises: HttpError."""
    if not schema:  # no check of nested values either, at any depth
        return
    name = where or "body"
    required_type, noun = _TYPES.get(schema.get("type", ""), (object, ""))
    # Not isinstance, which accepts True as an int.
    if required_type is not object and type(value) is not required_type:
        bad_request(f"{name} must be {noun}")
    if "enum" in schema and value not in schema["enum"]:
        bad_request(f"{name} must be one of {', '.join(schema['enum'])}")
    if schema.get("format") == "uuid" and not _UUID.fullmatch(value):
        bad_request(f"{name} must be a UUID")
    if isinstance(value, str):
        _check_size(
            len(value), schema.get("minLength"), schema.get("maxLength"), f"length of {name}"
        )
    elif isinstance(value, int):
        _check_size(value, schema.get("minimum"), schema.get("maximum"), name)
    elif isinstance(value, list):
        _check_size(len(value), schema.get("minItems"), None, f"length of {name}")
        for index, item in enumerate(value):
            check(schema.get("items", {}), item, f"{where}[{index}]")
    elif isinstance(value, dict):
        _check_members(schema, value, f"{where}." if where else "")


def _check_size(size: int, low: int | None, high: int | None, what: str) -> None:
    if low is not None and size < low:
        bad_request(f"{what} must be at least {low}")
    if high is not None and size > high:
        bad_request(f"{what} must be at most {high}")


def _check_members(schema: Schema, value: Mapping[str, Any], prefix: str) -> None:
    for name in schema.get("required", ()):
        if name not in value:
            bad_request(f"{prefix}{name} is required")
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", {})
    for name, item in value.items():
        if name not in known and others is False:
            bad_request(f"{prefix}{name} is not one of {', '.join(known)}")
        check(known.get(name, others), item, f"{prefix}{name}")
