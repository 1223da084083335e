"""Platforms by file name."""

import pytest

from nunu_async.errors import InputError
from nunu_async.models.choices import PLATFORMS
from nunu_async.upload.platforms import infer_platform

KNOWN = [
    (".exe", "windows"),
    (".msi", "windows"),
    (".msix", "windows"),
    (".appx", "windows"),
    (".dmg", "macos"),
    (".pkg", "macos"),
    (".ipa", "ios-native"),
    (".apk", "android"),
    (".aab", "android"),
    (".xapk", "android"),
    (".apks", "android"),
    (".deb", "linux"),
    (".rpm", "linux"),
    (".appimage", "linux"),
]
ARCHIVES = [".zip", ".tar", ".gz", ".tgz", ".bz2", ".7z", ".tar.gz", ".tar.bz2", ".ZIP"]


@pytest.mark.parametrize(("suffix", "platform"), KNOWN)
def test_an_extension_stands_for_its_platform(suffix: str, platform: str) -> None:
    assert infer_platform(f"game{suffix}") == platform


@pytest.mark.parametrize(("suffix", "platform"), KNOWN)
def test_an_extension_in_capitals_stands_for_the_same(suffix: str, platform: str) -> None:
    assert infer_platform(f"GAME{suffix.upper()}") == platform


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("Harbor-x86_64.AppImage", "linux"),
        ("game.zip.apk", "android"),
        ("game 2.4.0.exe", "windows"),
        ("builds.zip/game.ipa", "ios-native"),
        ("spiel-größe.dmg", "macos"),
        ("..apk", "android"),
    ],
)
def test_only_the_last_extension_counts(name: str, platform: str) -> None:
    assert infer_platform(name) == platform


@pytest.mark.parametrize(
    "name",
    [
        *(f"game{suffix}" for suffix in ARCHIVES),
        "game",
        "game.",
        "game.bin",
        "game.apk2",
        "game.exe ",
        "exe",
        "game.apk/readme",
        "",
    ],
)
def test_an_ambiguous_name_is_refused_with_every_choice(name: str) -> None:
    with pytest.raises(InputError) as refused:
        infer_platform(name)
    assert refused.value.field == "platform"
    assert [platform for platform in PLATFORMS if platform not in str(refused.value)] == []


@pytest.mark.parametrize("name", ["Game.app", "Game.APP"])
def test_an_app_may_be_for_a_mac_or_for_a_simulator(name: str) -> None:
    with pytest.raises(InputError) as refused:
        infer_platform(name)
    message = str(refused.value)
    assert ("macos" in message, "ios-simulator" in message, "windows" in message) == (
        True,
        True,
        False,
    )
