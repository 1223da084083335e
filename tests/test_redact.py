"""What may be shown, and what may not."""

import copy
import pickle
import time
import unicodedata
from typing import Any

import attrs
import pytest
from disclosed import OBEYED
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.cli.harmless import harmless
from nunu_async.redact import Secret, clean_details, clean_values, redact_url, sanitize

KEY = "nk_live_0123456789abcdef"

# Letters that no escape sequence begins with, so that escaping cannot spell a secret by chance.
keys = st.text("ABCXYZabcxyz0189_-", min_size=3, max_size=40).map(lambda rest: f"nk_{rest}")
anything = st.text(st.characters(exclude_categories=()))


@st.composite
def echoes(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    secrets = tuple(draw(st.lists(keys, min_size=1, max_size=4, unique=True)))
    pieces = draw(st.lists(st.one_of(st.sampled_from(secrets), anything), max_size=12))
    return "".join(pieces), secrets


@attrs.frozen
class _Holder:
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda secret: f"{secret}", id="f-string"),
        pytest.param(lambda secret: f"{secret!r:>40}", id="format width"),
        pytest.param("{}".format, id="str.format"),
        pytest.param(lambda secret: repr({"key": secret, secret: [secret]}), id="containers"),
        pytest.param(lambda secret: repr(_Holder(secret)), id="attrs"),
        pytest.param(lambda secret: repr(attrs.asdict(_Holder(secret))), id="asdict"),
        pytest.param(lambda secret: repr(ValueError("bad key", secret)), id="exception"),
        pytest.param(lambda secret: pickle.dumps(secret).decode("latin-1"), id="pickle"),
        pytest.param(lambda secret: pickle.dumps(secret, 0).decode("latin-1"), id="pickle 0"),
    ],
)
def test_a_secret_does_not_show(show: Any) -> None:
    assert KEY not in show(Secret(KEY))


def test_a_secret_is_revealed_when_asked() -> None:
    assert Secret(KEY).reveal() == KEY


def test_a_secret_does_not_come_back_from_a_pickle() -> None:
    back = pickle.loads(pickle.dumps(Secret(KEY)))  # noqa: S301 - our own bytes
    assert back.reveal() != KEY


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copied_secret_does_not_show(make: Any) -> None:
    assert KEY not in repr(make(Secret(KEY)))


def test_secrets_are_equal_by_value() -> None:
    assert {Secret(KEY), Secret(KEY), Secret("another")} == {Secret("another"), Secret(KEY)}


def test_a_secret_is_not_equal_to_its_own_text() -> None:
    assert Secret(KEY) != KEY


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a/b", "https://h.example/a/b"),
        ("https://h.example:8443/a", "https://h.example:8443/a"),
        ("https://h.example/a?X-Amz-Signature=abc&b=c", "https://h.example/a?..."),
        ("https://h.example/a#sig=abc", "https://h.example/a"),
        ("https://user:hunter2@h.example/a", "https://h.example/a"),
        ("https://user:hunter2@h.example:1/a?q#f", "https://h.example:1/a?..."),
        ("https://[2001:db8::1]:8443/a?q", "https://[2001:db8::1]:8443/a?..."),
        ("https://h.example:99999/a?q", "<unreadable URL>"),
        ("https://[::1/a?q", "<unreadable URL>"),
    ],
)
def test_a_shown_url_has_neither_query_nor_user(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(echoes())
def test_no_secret_survives_cleaning(echo: tuple[str, tuple[str, ...]]) -> None:
    text, secrets = echo
    cleaned = sanitize(text, map(Secret, secrets))
    assert [secret for secret in secrets if secret in cleaned] == []


@given(echoes(), st.integers(min_value=3, max_value=60))
def test_cutting_shows_no_beginning_of_a_secret(
    echo: tuple[str, tuple[str, ...]], limit: int
) -> None:
    _, secrets = echo
    cleaned = sanitize("-" * (limit - 6) + secrets[0] + "-" * 60, map(Secret, secrets), limit=limit)
    assert "nk_" not in cleaned


@pytest.mark.parametrize("order", [1, -1])
def test_a_secret_that_begins_another_leaves_no_rest_of_it(order: int) -> None:
    secrets = ("nk_live", "nk_live_0123456789")[::order]
    assert "0123456789" not in sanitize("bad key nk_live_0123456789", map(Secret, secrets))


@given(anything)
def test_cleaned_text_holds_no_control_or_direction_character(text: str) -> None:
    left = {unicodedata.category(c) for c in sanitize(text)}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(anything, st.integers(min_value=3, max_value=600))
def test_cleaned_text_keeps_to_its_limit(text: str, limit: int) -> None:
    assert len(sanitize(text * 3, limit=limit)) <= limit


@given(anything, st.integers(min_value=3, max_value=20))
def test_what_is_cut_is_the_beginning_of_the_whole(text: str, limit: int) -> None:
    whole = sanitize(text, limit=10**6)
    assert sanitize(text, limit=limit) == (
        whole if len(whole) <= limit else whole[: limit - 3] + "..."
    )


def test_a_page_of_32_mib_costs_no_more_than_is_shown_of_it() -> None:
    page = "\x00" * (32 << 20)
    began = time.process_time()
    shown = sanitize(page, [Secret("nk_live_0123456789")])
    assert time.process_time() - began < 1  # making all of it printable takes 20
    assert len(shown) == 500


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=500))
def test_plain_text_is_left_alone(text: str) -> None:
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff", "\\udcff"),
        ("\x9b1m", "\\x9b1m"),
        ("Grüße, 世界", "Grüße, 世界"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 497 + "..."),
    ],
)
def test_server_text_is_made_fit_for_a_terminal(text: str, cleaned: str) -> None:
    assert sanitize(text) == cleaned


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("::error::x", ": :error::x"),
        ("  ::add-mask::e", "  : :add-mask::e"),
        ("a\n::set-output name=a::b", "a\n: :set-output name=a::b"),
        ("see ##vso[task.setvariable variable=a]b", "see # #vso[task.setvariable variable=a]b"),
        ("see ##VSO[x]", "see # #VSO[x]"),
        ("###[group]", "## #[group]"),
        ("##teamcity[message]", "# #teamcity[message]"),
        ("section_start:1:a\r\x1b[0K", "section_ start:1:a\\r\\x1b[0K"),
        ("travis_fold:start:a", "travis_ fold:start:a"),
        ("::1 is a host, # is a number", None),
        pytest.param("::" + "a" * 20_000, None, id="long"),
        ("a::b::c is C++", None),
        ("section_started, ## heading, a[::2]", None),
        ("\u202egnp.exe\x1b[2J\x07", "\\u202egnp.exe\\x1b[2J\\x07"),
        ("two\nlines\tand a tab", None),
    ],
)
def test_nothing_that_a_terminal_or_a_ci_runner_obeys_is_left(
    text: str, broken: str | None
) -> None:
    assert harmless(text) == (text if broken is None else broken)


def test_our_styles_keep_their_colours_and_commands_are_broken() -> None:
    assert harmless("\x1b[1m::error::x\x1b[0m", styled=True) == "\x1b[1m: :error::x\x1b[0m"


@given(
    st.lists(
        st.sampled_from(
            [*"# :[]\n\r\x1b", "::", "##", "vso[", "teamcity[", "error", "section_", "start:"]
        )
    ).map("".join)
)
def test_no_command_survives(text: str) -> None:
    for styled in (False, True):
        once = harmless(text, styled=styled)
        assert not OBEYED.search(once)
        assert harmless(once, styled=styled) == once


@pytest.mark.parametrize("secret", ["", "a", "abcde"])
def test_a_value_too_short_for_a_secret_tears_no_holes(secret: str) -> None:
    assert sanitize("an abcde text", (Secret(secret),)) == "an abcde text"


def test_a_secret_of_six_characters_is_hidden() -> None:
    assert sanitize("an abcdef text", (Secret("abcdef"),)) == "an *** text"


def test_details_are_cleaned_at_every_depth() -> None:
    details = {
        "text": f"bad key {KEY}",
        KEY: 1,
        "nested": {"list": [KEY, {"deep": f"<{KEY}>"}, "\x1b[2J"]},
        "kept": [1, 1.5, True, None],
    }
    assert clean_details(details, (Secret(KEY),)) == {
        "text": "bad key ***",
        "***": 1,
        "nested": {"list": ["***", {"deep": "<***>"}, "\\x1b[2J"]},
        "kept": [1, 1.5, True, None],
    }


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.just(KEY), st.just(f"a {KEY} b")),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from(["a", KEY, f"x{KEY}"]), inner, max_size=3),
        ),
        max_leaves=20,
    )
)
def test_no_secret_survives_in_details(details: object) -> None:
    assert KEY not in repr(clean_details(details, (Secret(KEY),)))


def test_details_of_hostile_depth_end_where_they_can_still_be_shown() -> None:
    deep: object = "bottom"
    for _ in range(5000):
        deep = {"d": deep}
    cleaned = clean_details(deep, ())
    assert repr(cleaned).count("d") == 50
    assert repr(cleaned).endswith("'...'" + "}" * 50)
    assert pickle.loads(pickle.dumps(cleaned)) == cleaned  # noqa: S301 - what was just made


@given(
    st.dictionaries(
        st.sampled_from(["server", "x-request-id", "via", "vary", "date"]),
        st.one_of(
            anything,
            st.text("abc ", max_size=600),
            st.sampled_from([KEY, f"a {KEY} b", KEY[:-1], KEY[-1:], "abcde"]),
        ),
    ),
    st.sampled_from([(), (Secret(KEY),), (Secret("abcde"), Secret(KEY)), (Secret(""),)]),
)
def test_values_are_cleaned_as_each_alone_would_be(
    texts: dict[str, str], secrets: tuple[Secret, ...]
) -> None:
    alone = {name: sanitize(text, secrets) for name, text in texts.items()}
    assert clean_values(texts, secrets) == alone


def test_of_many_values_the_one_that_is_too_long_is_cut() -> None:
    texts = {"server": "edge", "csp": "x" * 501}
    assert clean_values(texts, ()) == {"server": "edge", "csp": "x" * 497 + "..."}
