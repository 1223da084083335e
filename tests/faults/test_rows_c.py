"""Rows C that are settings of a client, and so not what a case can change."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cli_tools import environment
from disclosed import disclosed
from doubles import ManualClock, answer, body_length, raw_server
from fault_case import Case
from fault_invariants import Evidence, check_invariants
from fault_play import Played, play
from fault_server import KEY, FaultServer

from nunu_async import ConfigError, InputError, NunuClient, RetryPolicy, Timeouts
from nunu_async.config import Config

NOTHING_SET = {"base_url": "http://127.0.0.1:1"}
BUILD = json.dumps({"build_id": "b", "status": "OK"}).encode()


@pytest.fixture
async def server(clock: ManualClock) -> AsyncIterator[FaultServer]:
    async with FaultServer(clock) as listening:
        yield listening
        assert not listening.errors


def refused(secret: str = KEY, **settings: Any) -> ConfigError:
    """Return the error of a client that cannot be made; it shows nothing of the key."""
    with pytest.raises(ConfigError) as caught:
        NunuClient(**settings)
    texts = {"error": disclosed(caught.value)}
    parts = {secret, secret.strip(), secret.strip("\"' \n\ufeff")}
    check_invariants(
        Evidence(requests=[], uploads=[], secrets={part for part in parts if part}, texts=texts)
    )
    return caught.value


@pytest.mark.parametrize("value", [None, "", " ", "\n\t"])
def test_c1_without_a_key_nothing_is_sent(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("NUNU_API_KEY", value)
        monkeypatch.setenv("NUNU_API_TOKEN", value)
    error = refused(base_url=server.url("api"), api_key=value)
    assert "NUNU_API_KEY" in str(error)
    assert server.connections == []


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {} ", "\t{}"])
async def test_c2_space_around_a_key_is_dropped(
    server: FaultServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    monkeypatch.setenv("NUNU_API_KEY", around.format(KEY))
    async with NunuClient(base_url=server.url("api"), clock=clock) as nunu:
        await nunu.runs.list_page()
    assert [seen.header("x-api-key") for seen in server.requests] == [KEY]


@pytest.mark.parametrize(
    "key",
    [
        "\ufeff" + KEY,
        KEY[:9] + "\n" + KEY[9:],
        KEY[:9] + " " + KEY[9:],
        f"Bearer {KEY}",
        KEY + "\0",
        KEY + "\x7f",
        600 * "k",
    ],
)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_c2_an_odd_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str, by: str
) -> None:
    if by == "argument":
        refused(key, api_key=key, **NOTHING_SET)
    elif "\0" not in key:  # which no environment holds
        monkeypatch.setenv("NUNU_API_TOKEN", key)
        refused(key, **NOTHING_SET)


@pytest.mark.parametrize(
    "key", ["nunu_schl\u00fcssel_123", "\u043a\u043b\u044e\u0447_123456", "nunu\u2011key-123"]
)
def test_c3_a_key_outside_ascii_is_refused_and_not_shown(key: str) -> None:
    assert "non-ASCII" in str(refused(key, api_key=key, **NOTHING_SET))


@pytest.mark.parametrize(
    "url",
    [
        "http://nunu.test",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.nunu.test",
        "http://localhost.nunu.test",
        "HTTP://nunu.test/api/v1",
    ],
)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_c4_plain_http_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("NUNU_API_KEY", KEY)
        monkeypatch.setenv("NUNU_BASE_URL", url)
        assert "plain http" in str(refused())
    else:
        assert "plain http" in str(refused(api_key=KEY, base_url=url))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_c4_plain_http_to_this_machine_is_fine(
    server: FaultServer, clock: ManualClock, host: str
) -> None:
    url = f"http://{host}:{server.ports['api']}"
    async with NunuClient(KEY, base_url=url, clock=clock) as nunu:
        await nunu.runs.list_page()
    assert server.count("api") == 1


@pytest.mark.parametrize(
    ("ending", "target"),
    [
        ("", "/api/v1/runs"),
        ("/", "/api/v1/runs"),
        ("/api", "/api/v1/runs"),
        ("/api/", "/api/v1/runs"),
        ("/api/v1", "/api/v1/runs"),
        ("/api/v1//", "/api/v1/runs"),
        ("/behind/a/gateway", "/behind/a/gateway/api/v1/runs"),
        ("/behind/a/gateway/api/v1/", "/behind/a/gateway/api/v1/runs"),
    ],
)
async def test_c5_a_base_url_is_completed(clock: ManualClock, ending: str, target: str) -> None:
    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(answer(body=json.dumps({"data": [], "pagination": PAGES}).encode()))

    async with (
        raw_server(exchange) as api,
        NunuClient(KEY, base_url=api.url + ending, clock=clock) as nunu,
    ):
        await nunu.runs.list_page()
    assert [head.split(b" ")[1].partition(b"?")[0].decode() for head in api.heads] == [target]


PAGES = {"page": 0, "page_size": 20, "total_count": 0, "total_pages": 0}


@pytest.mark.parametrize(
    "url",
    [
        "https://user:word@nunu.test",
        "https://user@nunu.test",
        "https://nunu.test?key=1",
        "https://nunu.test/api/v1#part",
        "https://n\u00fcnu.test",
        "https://nunu.test:0",
        "https://nunu.test:99999",
        "https://",
        "nunu.test",
        "ftp://nunu.test",
        "file:///etc/passwd",
        "https://nunu.test/a b",
        "https://nunu.test/\r\nX: y",
        "https://[::1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0177.0.0.1",
    ],
)
def test_c5_a_base_url_that_cannot_work_is_refused(url: str) -> None:
    assert "word" not in str(refused(api_key=KEY, base_url=url))


def test_c5_a_key_in_the_place_of_a_url_is_not_shown() -> None:
    refused(api_key=KEY, base_url=KEY)
    refused(api_key=KEY, base_url=f"{KEY}://x")


async def test_c6_an_argument_goes_before_the_environment(
    server: FaultServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUNU_API_KEY", "another_key_123456")
    monkeypatch.setenv("NUNU_API_TOKEN", "a_third_key_123456")
    monkeypatch.setenv("NUNU_BASE_URL", server.url("foreign"))
    monkeypatch.setenv("NUNU_PROJECT_ID", "theirs")
    path = tmp_path / "game.zip"
    path.write_bytes(b"build")
    async with NunuClient(KEY, base_url=server.url("api"), project_id="ours", clock=clock) as nunu:
        await nunu.upload_build(path, name="n", platform="linux")
        text = f"{nunu!r} {vars(nunu)!r} {nunu._config!r} {nunu._config}"
    assert server.count("foreign") == 0
    (build,) = server.builds.values()
    assert build.request["project_id"] == "ours"
    secrets = {*server.secrets, "another_key_123456", "a_third_key_123456"}
    shown = {"texts": {"reprs": text}, "secrets": secrets}
    check_invariants(Evidence.of_server(server, content=b"build", **shown))


async def test_c6_the_environment_goes_before_the_defaults(
    server: FaultServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Config.load({}, api_key=KEY).base_url == "https://nunu.ai/api/v1"
    monkeypatch.setenv("NUNU_API_KEY", KEY)
    monkeypatch.setenv("NUNU_API_TOKEN", "another_key_123456")
    monkeypatch.setenv("NUNU_BASE_URL", server.url("api"))
    monkeypatch.setenv("NUNU_API_URL", server.url("foreign"))
    async with NunuClient(clock=clock) as nunu:
        await nunu.runs.list_page()
    assert [seen.header("x-api-key") for seen in server.requests] == [KEY]
    assert server.count("api") == 1


# What a cloned repository could bring along, as several tools read it.
LEFT_AROUND = (
    *("nunu.json", ".nunu.json", "nunu.toml", ".env", ".nunurc", "setup.cfg", "tox.ini"),
    *(".nunu/config.json", ".config/nunu/config.json", ".config/nunu-async/config.json"),
)


def leave_around(folder: Path, url: str) -> None:
    for name in LEFT_AROUND:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            fields = ("api_url", "apiUrl", "base_url", "url", "NUNU_API_URL")
            place.write_text(json.dumps(dict.fromkeys(fields, url)))
        else:
            place.write_text(f"[nunu]\nNUNU_BASE_URL={url}\nNUNU_API_URL={url}\nbase_url={url}\n")


@pytest.mark.parametrize("home", ["here", "elsewhere"])
async def test_c8_a_file_in_the_working_directory_leads_no_key_anywhere(
    server: FaultServer,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    home: str,
) -> None:
    leave_around(tmp_path, server.url("foreign"))
    monkeypatch.chdir(tmp_path)
    if home == "here":
        monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NUNU_API_KEY", KEY)
    assert NunuClient()._config.base_url == "https://nunu.ai/api/v1"
    monkeypatch.setenv("NUNU_BASE_URL", server.url("api"))
    async with NunuClient(clock=clock) as nunu:
        await nunu.runs.list_page()
    assert (server.count("api"), server.count("foreign")) == (1, 0)
    check_invariants(Evidence.of_server(server))


async def test_c8_nor_does_it_by_the_command_line(server: FaultServer, tmp_path: Path) -> None:
    """A process of its own, which looks at no other file than the build."""
    leave_around(tmp_path, server.url("foreign"))
    (tmp_path / "game.zip").write_bytes(b"build")
    program = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[0], str):\n"
        "        print('OPENED', args[0], file=sys.stderr)\n"
        "sys.addaudithook(hook)\n"
        "from nunu_async.cli import main\n"
        "sys.exit(main())\n"
    )
    environ = environment(
        {"NUNU_API_KEY": KEY, "NUNU_BASE_URL": server.url("api"), "HOME": str(tmp_path)},
        {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""},
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "upload", "game.zip", "-n", "n", "--platform", "linux"),
        cwd=tmp_path,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-1000:]
    assert (server.count("complete_upload"), server.count("foreign")) == (1, 0)
    opened = [line.split(" ", 1)[1] for line in err.decode().splitlines() if "OPENED" in line]
    assert "game.zip" in opened
    ours = {name for name in opened if name in LEFT_AROUND or str(tmp_path) in name}
    assert ours == set()
    assert KEY not in (out + err).decode()


@pytest.mark.parametrize("name", ["NUNU_BASE_URL", "NUNU_API_URL"])
async def test_c8_a_key_that_was_passed_in_goes_to_no_host_of_the_environment(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, server.url("foreign"))
    assert name in str(refused(api_key=KEY))
    assert server.connections == []


async def test_c9_no_netrc_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases play the same for each place; here both are there."""
    for name in ("netrc", ".netrc"):
        (tmp_path / name).write_text("machine 127.0.0.1 login user password MARKED-PASSWORD\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def look(played: Played) -> None:
        for seen in played.server.requests:
            assert seen.header("authorization") is None

    await play(Case("C9", "both", also=look), tmp_path)


async def a_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readexactly(body_length(head))
    writer.write(answer(body=BUILD))


@pytest.mark.parametrize(
    ("variables", "by_proxy"),
    [
        ({"HTTP_PROXY": "{}"}, True),
        ({"http_proxy": "{}"}, True),
        pytest.param(
            {"http_proxy": "{}", "HTTP_PROXY": "http://127.0.0.1:1"},
            True,
            marks=pytest.mark.skipif(
                os.name == "nt", reason="the names of variables have no case on Windows"
            ),
        ),
        ({"HTTP_PROXY": "{}", "NO_PROXY": "example.test, other.test"}, True),
    ],
)
async def test_c10_a_proxy_of_the_environment_is_used_and_its_password_not_shown(
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    by_proxy: bool,
) -> None:
    caplog.set_level("DEBUG")
    async with raw_server(a_proxy) as proxy:
        for name, value in variables.items():
            url = f"http://user:MARKED%3APASSWORD@127.0.0.1:{proxy.port}"
            monkeypatch.setenv(name, value.format(url))
        async with NunuClient(KEY, base_url="http://nunu.test", allow_http=True, clock=clock) as n:
            await n.builds.get("b")
            text = f"{n!r} {vars(n)!r} {caplog.text}"
    assert len(proxy.heads) == by_proxy
    assert b"GET http://nunu.test/api/v1/builds/b " in proxy.heads[0]
    assert b"Proxy-Authorization: Basic " in proxy.heads[0]
    assert "MARKED" not in text.replace(KEY, "")
    assert KEY not in text


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTP_PROXY": "{}"},  # this machine is reached straight whatever they say
        {"HTTP_PROXY": "{}", "NO_PROXY": "*"},
        {"HTTPS_PROXY": "{}"},
        {"ALL_PROXY": "{}"},
        {"http_proxy": "", "HTTP_PROXY": "{}"},
    ],
)
async def test_c10_this_machine_is_reached_straight(
    server: FaultServer,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    async with raw_server(a_proxy) as proxy:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(proxy.url))
        async with NunuClient(KEY, base_url=server.url("api"), clock=clock) as nunu:
            await nunu.runs.list_page()
    assert (proxy.connections, server.count("api")) == (0, 1)


@pytest.mark.parametrize(
    "value",
    [
        "socks5://user:MARKED@127.0.0.1:1",
        "user:MARKED@127.0.0.1:notaport",
        "http://",
        "http://user:MARKED@ho st",
        "ftp://MARKED",
    ],
)
def test_c10_what_is_no_proxy_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert "HTTPS_PROXY" in str(refused("MARKED", api_key=KEY)).upper()


def folder(path: Path) -> Path:
    return path


def garbage(path: Path) -> Path:
    place = path / "garbage.pem"
    place.write_bytes(b"-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n")
    return place


def no_certificates(path: Path) -> Path:
    place = path / "empty.pem"
    place.write_bytes(b"")
    return place


@pytest.mark.parametrize("make", [lambda path: path / "none", folder, garbage, no_certificates])
def test_c11_unreadable_certificates_are_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make(tmp_path)))
    assert "SSL_CERT_FILE" in str(refused(api_key=KEY))


@pytest.mark.parametrize("make", [lambda path: path / "none", garbage])
def test_c11_a_missing_certificate_folder_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(make(tmp_path)))
    assert "SSL_CERT_DIR" in str(refused(api_key=KEY))


NONSENSE = [math.nan, math.inf, -math.inf, 0, -1, True, "5", [1]]


@pytest.mark.parametrize("value", [0, -1, 10**6, 1001, 1.5, math.nan, True, "4", None])
@pytest.mark.parametrize("name", ["api_concurrency", "storage_concurrency"])
def test_c12_a_nonsense_concurrency_is_refused(name: str, value: Any) -> None:
    assert name in str(refused(api_key=KEY, **{name: value}))


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("name", ["connect", "attempt", "call", "complete", "stall", "cleanup"])
def test_c12_a_nonsense_limit_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Timeouts(**{name: value})


@pytest.mark.parametrize("value", NONSENSE)
def test_c12_a_nonsense_timeout_is_refused(value: Any) -> None:
    refused(api_key=KEY, timeout=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("attempts", value) for value in (0, -1, 1.5, math.nan, True, "3")),
        *(("part_attempts", value) for value in (0, -1, 2.0)),
        *(("base", value) for value in (math.nan, math.inf, -1, "1")),
        *(("cap", value) for value in (math.nan, math.inf, -1)),
        *(("max_retry_after", value) for value in (math.nan, math.inf, -1)),
        *(("budget", value) for value in (-1, 1.5, math.nan)),
    ],
)
def test_c12_a_nonsense_policy_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, 10**6, True, "4"])
async def test_c12_a_nonsense_concurrency_of_one_file_is_refused(
    server: FaultServer, tmp_path: Path, value: Any
) -> None:
    path = tmp_path / "game.zip"
    path.write_bytes(b"build")
    async with NunuClient(KEY, base_url=server.url("api")) as nunu:
        with pytest.raises(InputError, match="concurrency"):
            await nunu.upload_build(path, name="n", platform="linux", concurrency=value)
    assert server.connections == []


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("name", ["interval", "timeout"])
async def test_c12_a_nonsense_wait_is_refused(server: FaultServer, name: str, value: Any) -> None:
    async with NunuClient(KEY, base_url=server.url("api")) as nunu:
        with pytest.raises(InputError, match=name):
            await nunu.wait_for_run("abc", **{name: value})
    assert server.connections == []


@pytest.mark.parametrize("project", ["../x", "a b", "a/b", "\u00e4", 256 * "x", "a\nb", "a?b"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_c13_a_wrong_project_is_refused(
    monkeypatch: pytest.MonkeyPatch, project: str, by: str
) -> None:
    if by == "argument":
        error = refused(api_key=KEY, project_id=project)
    else:
        monkeypatch.setenv("NUNU_PROJECT_ID", project)
        error = refused(api_key=KEY)
    assert "project_id" in str(error)
