"""Settings: where they come from, and what is refused."""

import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from cli_tools import environment, run

from nunu_async.config import (
    BASE_URL_VARIABLES,
    DEFAULT_BASE_URL,
    KEY_VARIABLES,
    PROJECT_VARIABLES,
    Config,
    Timeouts,
    is_loopback,
    normalize_base_url,
)
from nunu_async.errors import ConfigError

KEY = "nk_live_0123456789abcdef"
ENVIRON = {"NUNU_API_KEY": KEY}


def _unpickled(config: Config) -> dict[str, object]:
    return attrs.asdict(pickle.loads(pickle.dumps(config)))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", KEY_VARIABLES)
def test_a_key_is_taken_from_each_of_its_variables(name: str) -> None:
    assert Config.load({name: KEY}).api_key.reveal() == KEY


@pytest.mark.parametrize("name", BASE_URL_VARIABLES)
def test_a_base_url_is_taken_from_each_of_its_variables(name: str) -> None:
    assert Config.load(ENVIRON | {name: "https://a.example"}).base_url == "https://a.example/api/v1"


@pytest.mark.parametrize("name", PROJECT_VARIABLES)
def test_a_project_is_taken_from_its_variable(name: str) -> None:
    assert Config.load(ENVIRON | {name: "harbor"}).project_id == "harbor"


def test_the_first_key_variable_goes_before_the_second() -> None:
    first, second = KEY_VARIABLES
    assert Config.load({second: "second-key", first: "first-key"}).api_key.reveal() == "first-key"


def test_the_first_url_variable_goes_before_the_second() -> None:
    first, second = BASE_URL_VARIABLES
    config = Config.load(ENVIRON | {second: "https://b.example", first: "https://a.example"})
    assert config.base_url == "https://a.example/api/v1"


@pytest.mark.parametrize(
    ("argument", "attribute", "expected"),
    [
        (
            {"api_key": "argument-key", "base_url": "https://arg.example"},
            "api_key",
            "argument-key",
        ),
        ({"project_id": "argument"}, "project_id", "argument"),
        ({"base_url": "https://arg.example"}, "base_url", "https://arg.example/api/v1"),
    ],
)
def test_an_argument_goes_before_the_environment(
    argument: dict[str, Any], attribute: str, expected: str
) -> None:
    environ = ENVIRON | {"NUNU_PROJECT_ID": "environ", "NUNU_BASE_URL": "https://env.example"}
    found = getattr(Config.load(environ, **argument), attribute)
    assert (found.reveal() if attribute == "api_key" else found) == expected


@pytest.mark.parametrize("variable", BASE_URL_VARIABLES)
def test_a_key_that_was_passed_in_does_not_go_where_the_environment_says(variable: str) -> None:
    """Whoever can set a variable must not be able to have another user's key sent to them."""
    environ = {variable: "https://elsewhere.example"}
    with pytest.raises(ConfigError, match=variable) as refused:
        Config.load(environ, api_key="argument-key")
    assert "argument-key" not in str(refused.value)
    config = Config.load(environ, api_key="argument-key", base_url="https://nunu.ai")
    assert config.base_url == DEFAULT_BASE_URL
    for usual in ("https://nunu.ai", "https://nunu.ai/api/", DEFAULT_BASE_URL):
        assert Config.load({variable: usual}, api_key="argument-key").base_url == DEFAULT_BASE_URL


def test_what_nothing_sets_has_its_default() -> None:
    config = Config.load(ENVIRON)
    assert (config.base_url, config.project_id, config.allow_http) == (
        DEFAULT_BASE_URL,
        None,
        False,
    )


@pytest.mark.parametrize("empty", ["", " ", "\n"])
@pytest.mark.parametrize(
    ("name", "attribute", "expected"),
    [
        ("NUNU_PROJECT_ID", "project_id", None),
        ("NUNU_BASE_URL", "base_url", DEFAULT_BASE_URL),
        ("NUNU_API_URL", "base_url", DEFAULT_BASE_URL),
    ],
)
def test_an_empty_variable_counts_as_unset(
    name: str, attribute: str, expected: str | None, empty: str
) -> None:
    assert getattr(Config.load(ENVIRON | {name: empty}), attribute) == expected


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_key_variable_lets_the_next_one_speak(empty: str) -> None:
    first, second = KEY_VARIABLES
    assert Config.load({first: empty, second: KEY}).api_key.reveal() == KEY


@pytest.mark.parametrize(
    "argument", [{"api_key": ""}, {"api_key": "\n"}, {"project_id": ""}, {"base_url": ""}]
)
def test_an_empty_argument_lets_the_environment_speak(argument: dict[str, Any]) -> None:
    environ = ENVIRON | {"NUNU_PROJECT_ID": "harbor", "NUNU_BASE_URL": "https://env.example"}
    assert Config.load(environ, **argument) == Config.load(environ)


@pytest.mark.parametrize("environ", [{}, dict.fromkeys(KEY_VARIABLES, ""), {"NUNU_KEY": KEY}])
def test_a_missing_key_is_refused_with_the_names_of_its_variables(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.load(environ)
    assert all(name in str(refused.value) for name in KEY_VARIABLES)


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\t{}\n\n"])
def test_space_around_a_ci_secret_is_dropped(around: str) -> None:
    assert Config.load({"NUNU_API_KEY": around.format(KEY)}).api_key.reveal() == KEY


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("nk_live_ 0123456789", id="space inside"),
        pytest.param("nk_live_\n0123456789", id="newline inside"),
        pytest.param("nk_live_\r\nX-Evil: 0123456789", id="header injection"),
        pytest.param("nk_live_\x000123456789", id="NUL"),
        pytest.param("nk_live_\x7f0123456789", id="DEL"),
        pytest.param("\ufeffnk_live_0123456789", id="byte order mark"),
        pytest.param("nk_live_\xa00123456789", id="no-break space"),
        pytest.param("nk_live_ü0123456789", id="non-ASCII"),
        pytest.param("nk_live_\udcff0123456789", id="undecodable byte"),
        pytest.param("nk_live_0123456789" * 30, id="over 512 characters"),
        pytest.param('"nk_live_0123456789"', id="in quotation marks"),
        pytest.param("'nk_live_0123456789'\n", id="in single ones"),
        pytest.param('"nk_live_0123456789', id="an odd one"),
    ],
)
@pytest.mark.parametrize(
    "load",
    [
        pytest.param(lambda key: Config.load({}, api_key=key), id="argument"),
        pytest.param(lambda key: Config.load({"NUNU_API_KEY": key}), id="variable"),
    ],
)
def test_an_odd_key_is_refused_without_being_shown(key: str, load: Callable[[str], Config]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(key)
    shown = f"{refused.value} {refused.value!r} {refused.value.__context__!r}"
    assert "nk_live" not in shown
    assert "0123456789" not in shown


@pytest.mark.parametrize("name", ["NUNU_PROJECT_ID", "NUNU_BASE_URL", "NUNU_STATE_DIR"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_setting_that_kept_its_quotation_marks_is_refused_by_name(name: str, quote: str) -> None:
    """As `docker --env-file` passes it on."""
    with pytest.raises(ConfigError, match=f"{name} holds quotation marks: write it without"):
        Config.load({**ENVIRON, name: f"{quote}https://nunu.ai{quote}"})


async def test_a_quoted_key_is_refused_even_where_none_is_needed() -> None:
    ran = await run("uploads", "list", env=environment({"NUNU_API_KEY": '"nunu_abcdef"'}))
    assert (ran.code, ran.out) == (2, "")
    ran.tells("the API key holds quotation marks: write it without them")
    assert len(ran.err.splitlines()) == 1


def test_a_key_of_512_characters_is_accepted() -> None:
    assert len(Config.load({}, api_key="k" * 512).api_key.reveal()) == 512


@pytest.mark.parametrize("project", ["p\x00", "p\nq", "\x1b[2J", "p" * 256])
def test_an_odd_project_is_refused(project: str) -> None:
    with pytest.raises(ConfigError, match="project_id"):
        Config.load(ENVIRON, project_id=project)


def test_a_project_of_255_characters_is_accepted() -> None:
    assert Config.load(ENVIRON, project_id="p" * 255).project_id == "p" * 255


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://nunu.ai", "https://nunu.ai/api/v1"),
        ("https://nunu.ai/", "https://nunu.ai/api/v1"),
        ("https://nunu.ai//", "https://nunu.ai/api/v1"),
        ("https://nunu.ai/api", "https://nunu.ai/api/v1"),
        ("https://nunu.ai/api/", "https://nunu.ai/api/v1"),
        ("https://nunu.ai/api/v1", "https://nunu.ai/api/v1"),
        ("https://nunu.ai/api/v1///", "https://nunu.ai/api/v1"),
        (" https://nunu.ai ", "https://nunu.ai/api/v1"),
        ("HTTPS://NUNU.AI/api", "https://nunu.ai/api/v1"),
        ("https://nunu.ai:8443", "https://nunu.ai:8443/api/v1"),
        ("https://nunu.ai:8443/api/v1/", "https://nunu.ai:8443/api/v1"),
        ("https://gate.example/nunu", "https://gate.example/nunu/api/v1"),
        ("https://gate.example/nunu/api", "https://gate.example/nunu/api/v1"),
        ("https://gate.example/nunu/api/v1/", "https://gate.example/nunu/api/v1"),
        ("https://gate.example/myapi", "https://gate.example/myapi/api/v1"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]/api/v1"),
        ("https://[2001:db8::1]:8443/api", "https://[2001:db8::1]:8443/api/v1"),
        ("http://localhost:8080", "http://localhost:8080/api/v1"),
        ("http://nunu.localhost", "http://nunu.localhost/api/v1"),
        ("http://127.0.0.1:8080/api", "http://127.0.0.1:8080/api/v1"),
        ("http://127.8.9.10", "http://127.8.9.10/api/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/api/v1"),
    ],
)
def test_a_base_url_is_completed(given: str, expected: str) -> None:
    assert normalize_base_url(given) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://nunu.ai",
        "https://gate.example/nunu/",
        "https://[2001:db8::1]:8443/api",
        "http://[::1]:1",
    ],
)
def test_completing_a_base_url_twice_changes_nothing_more(url: str) -> None:
    once = normalize_base_url(url)
    assert normalize_base_url(once) == once


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("ftp://nunu.ai", id="ftp"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("nunu.ai/api", id="no scheme"),
        pytest.param("//nunu.ai", id="empty scheme"),
        pytest.param("", id="empty"),
        pytest.param("https://", id="no host"),
        pytest.param("https://:8443", id="only a port"),
        pytest.param("https://user@nunu.ai", id="user"),
        pytest.param("https://user:pass@nunu.ai", id="password"),
        pytest.param("https://@nunu.ai", id="empty user"),
        pytest.param("https://nunu.ai\\@evil.example", id="backslash"),
        pytest.param("https://nunu.ai/api?key=1", id="query"),
        pytest.param("https://nunu.ai/api#top", id="fragment"),
        pytest.param("https://nunu.ai:99999", id="port out of range"),
        pytest.param("https://nunu.ai:0", id="port 0"),
        pytest.param("https://nunu.ai:http", id="port in words"),
        pytest.param("https://[::1", id="open bracket"),
        pytest.param("https://nunu.ai/a b", id="space"),
        pytest.param("https://nunu\x00.ai", id="NUL"),
        pytest.param("https://nunu.ai/a\r\nX: y", id="header injection"),
        pytest.param("http://nunu.ai", id="plain http"),
        pytest.param("http://localhost.evil.example", id="only looks local"),
        pytest.param("http://127.0.0.1.evil.example", id="only looks like an address"),
        pytest.param("http://0.0.0.0", id="any address"),
        pytest.param("http://2130706433", id="loopback as a number"),
        pytest.param("http://[2001:db8::1]", id="plain http over IPv6"),
    ],
)
def test_a_base_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        normalize_base_url(url)


@pytest.mark.parametrize("url", ["https://bücher.example", "https://nunu.ai/bücher"])
def test_a_base_url_outside_ascii_is_refused_or_made_ascii(url: str) -> None:
    try:
        made = normalize_base_url(url)
    except ConfigError:
        return
    assert made.isascii()


def test_a_refused_base_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as refused:
        normalize_base_url("https://user:hunter2@nunu.ai")
    assert "hunter2" not in repr(refused.value)


def test_a_key_given_as_the_base_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        Config.load({}, api_key="harbor", base_url=KEY)
    assert "0123456789" not in repr(refused.value)


def test_plain_http_elsewhere_has_to_be_asked_for() -> None:
    config = Config.load(ENVIRON, base_url="http://nunu.example", allow_http=True)
    assert config.base_url == "http://nunu.example/api/v1"


def test_asking_for_plain_http_allows_no_other_scheme() -> None:
    with pytest.raises(ConfigError, match="base_url"):
        normalize_base_url("ftp://nunu.ai", allow_http=True)


def test_a_plain_http_variable_is_refused_like_an_argument() -> None:
    with pytest.raises(ConfigError, match="plain http"):
        Config.load(ENVIRON | {"NUNU_BASE_URL": "http://nunu.example"})


def test_a_base_url_variable_may_end_in_a_newline() -> None:
    config = Config.load(ENVIRON | {"NUNU_BASE_URL": "https://nunu.ai/api\n"})
    assert config.base_url == DEFAULT_BASE_URL


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("nunu.localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("", False),
        ("nunu.ai", False),
        ("notlocalhost", False),
        ("localhost.evil.example", False),
        ("0.0.0.0", False),  # noqa: S104 - asked about, not bound
        ("::", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("127.1", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("url", "local"), [("http://[::1]:8080", True), ("https://nunu.ai", False)]
)
def test_a_config_knows_whether_its_api_is_local(url: str, local: bool) -> None:
    assert Config.load(ENVIRON, base_url=url).is_local is local


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda config: f"{config} {config.api_key}", id="format"),
        pytest.param(lambda config: repr(attrs.asdict(config)), id="asdict"),
        pytest.param(lambda config: repr(_unpickled(config)), id="unpickled"),
        pytest.param(lambda config: pickle.dumps(config, 0).decode("latin-1"), id="pickle 0"),
        pytest.param(lambda config: pickle.dumps(config).decode("latin-1"), id="pickle"),
    ],
)
def test_a_config_never_shows_its_key(show: Callable[[Config], str]) -> None:
    config = Config.load(ENVIRON)
    assert KEY not in show(config)


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", [field.name for field in attrs.fields(Timeouts) if "trickle" not in field.name]
)
def test_a_timeout_that_makes_no_sense_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} "):
        Timeouts(**{name: value})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["trickle_rate", "trickle_window"])
def test_a_floor_that_makes_no_sense_is_refused_and_0_turns_it_off(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} "):
        Timeouts(**{name: value})
    assert getattr(Timeouts(**{name: 0}), name) == 0


@pytest.mark.parametrize("value", [0.001, 1, 86_400.0])
def test_any_positive_timeout_is_accepted(value: float) -> None:
    assert Timeouts(stall=value).stall == value
