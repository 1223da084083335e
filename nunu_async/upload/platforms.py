"""Infers the platform of a build from its file name. Pure.

Source: the vendor's own CLI infers the first twelve; the service documents the platform names.
"""

from __future__ import annotations

from typing import Final

from nunu_async.errors import InputError
from nunu_async.models.choices import PLATFORMS, Platform

_BY_SUFFIX: Final[dict[str, Platform]] = {
    ".exe": "windows",
    ".msi": "windows",
    ".msix": "windows",
    ".appx": "windows",
    ".dmg": "macos",
    ".pkg": "macos",
    ".ipa": "ios-native",
    ".apk": "android",
    ".aab": "android",
    ".xapk": "android",
    ".apks": "android",
    ".deb": "linux",
    ".rpm": "linux",
    ".appimage": "linux",
}


def infer_platform(file_name: str) -> Platform:
    """Return the platform for a file's extension (case-insensitive).

    Raises: InputError, listing the choices, if the extension is unknown or ambiguous.
    """
    # Not `PurePath.suffix`, which is empty for "..apk" since Python 3.14.
    stem, dot, extension = file_name.rpartition(".")
    suffix = f"{dot}{extension}".lower() if stem else ""
    platform = _BY_SUFFIX.get(suffix)
    if platform is not None:
        return platform
    if suffix == ".app":
        raise InputError(
            "platform", f"{file_name!a} may be for macos or ios-simulator; say for which"
        )
    raise InputError(
        "platform",
        f"cannot be told from the name {file_name!a}; say which it is: {', '.join(PLATFORMS)}",
    )
