"""Words of the API: open sets, compared without case."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.models import vocab
from nunu_async.models.vocab import (
    BugCategory,
    BugConfidence,
    BugSeverity,
    ExecutionStatus,
    JobStatus,
    OpenEnum,
    RunResult,
    RunState,
    TestType,
)

KINDS = {
    RunState: "pending initializing running completed",
    RunResult: "success failed failure error stopped max_steps skipped blocked timeout",
    TestType: "verification task discovery exploration",
    ExecutionStatus: "queued in_progress completed",
    JobStatus: "queued starting running stopping cleaning_up completed",
    BugCategory: "ui gameplay performance crash audio visual",
    BugSeverity: "low medium high critical",
    BugConfidence: "low medium high",
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
MEMBERS = [(kind, word) for kind, words in KINDS.items() for word in words.split()]
EACH_MEMBER = pytest.mark.parametrize(("kind", "word"), MEMBERS)
ASCII = st.text(st.characters(max_codepoint=127), max_size=12)


def test_every_kind_is_in_the_table() -> None:
    assert set(OpenEnum.__subclasses__()) == set(KINDS)
    assert set(vocab.__all__) == {kind.__name__ for kind in KINDS} | {"OpenEnum"}


@EACH_KIND
def test_the_documented_words_are_these(kind: type[OpenEnum]) -> None:
    assert kind.known == set(KINDS[kind].split())


@EACH_MEMBER
def test_a_documented_word_is_a_member_by_its_name(kind: type[OpenEnum], word: str) -> None:
    member = getattr(kind, word.upper())
    assert type(member) is kind
    assert str(member) == word
    assert member.is_known


@EACH_MEMBER
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, str.swapcase])
def test_a_word_counts_in_any_case(kind: type[OpenEnum], word: str, spell: object) -> None:
    came = kind(spell(word))  # type: ignore[operator]
    member = getattr(kind, word.upper())
    assert came == member
    assert member == came
    assert not came != member  # noqa: SIM202 - `!=` is its own method
    assert came == word
    assert word == came
    assert came == word.upper()
    assert word.upper() == came
    assert hash(came) == hash(member) == hash(word)
    assert came in {member}  # noqa: FURB171 - by its hash
    assert {member: 1}[came] == 1
    assert {word: 1}[came] == 1
    assert came.is_known
    assert str(came) == spell(word)  # type: ignore[operator]


@EACH_KIND
@pytest.mark.parametrize("text", ["", "rehearsing", "COMPLETED ", "completed\n", "ünknown", "none"])
def test_another_word_is_kept_as_it_came(kind: type[OpenEnum], text: str) -> None:
    word = kind(text)
    assert str(word) == text
    assert type(str(word)) is str
    assert not word.is_known
    assert all(word != getattr(kind, known.upper()) for known in kind.known)


def test_failure_and_failed_are_two_words() -> None:
    assert RunResult.FAILURE != RunResult.FAILED


@pytest.mark.parametrize("other", [None, 0, b"completed", ["completed"], object()])
def test_a_word_equals_no_other_thing(other: object) -> None:
    word = RunState.COMPLETED
    assert word != other
    assert not word == other  # noqa: SIM201 - `==` is its own method


def test_a_word_is_matched_by_its_text_and_by_its_member() -> None:
    match RunState("COMPLETED"):
        case "completed":
            found = "text"
        case _:
            found = "nothing"
    assert found == "text"
    match RunState("Completed"):
        case RunState.COMPLETED:
            found = "member"
    assert found == "member"


@EACH_KIND
@pytest.mark.parametrize(
    "again",
    [lambda word: pickle.loads(pickle.dumps(word)), copy.copy, copy.deepcopy],  # noqa: S301 - ours
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_word_survives_copy_and_pickle(kind: type[OpenEnum], again: object) -> None:
    word = kind("CoMpLeTeD")
    same = again(word)  # type: ignore[operator]
    assert type(same) is kind
    assert str(same) == "CoMpLeTeD"


def test_a_word_is_written_as_a_string() -> None:
    word = RunState("COMPLETED")
    assert json.dumps({"state": word}) == '{"state": "COMPLETED"}'
    assert json.loads(json.dumps({word: 1})) == {"COMPLETED": 1}
    assert f"{word}" == f"{word!s}" == "%s" % word == "COMPLETED"  # noqa: UP031 - each its own way
    assert f"{word:>10}" == " COMPLETED"
    assert repr(word) == "RunState('COMPLETED')"
    assert isinstance(word, str)


@pytest.mark.parametrize("name", ["COMPLETED", "known", "brand_new"])
def test_a_word_holds_nothing_else(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(RunState("x"), name, 1)


@given(ASCII, ASCII)
def test_words_are_equal_exactly_where_their_lower_cases_are(one: str, other: str) -> None:
    a, b = RunState(one), RunState(other)
    assert (a == b) is (one.lower() == other.lower())
    assert (a != b) is (one.lower() != other.lower())
    assert (a == other) is (other == a) is (one.lower() == other.lower())


@given(st.text(max_size=12), st.text(max_size=12))
def test_equal_words_have_equal_hashes_in_every_script(one: str, other: str) -> None:
    a, b = RunState(one), RunState(other)
    assert a == RunState(one.lower()) or one.lower().lower() != one.lower()
    if a == b:
        assert hash(a) == hash(b)


@given(st.text(max_size=20))
def test_the_text_of_a_word_is_what_came(text: str) -> None:
    assert str(RunResult(text)) == text
    assert pickle.loads(pickle.dumps(RunResult(text))) == RunResult(text)  # noqa: S301 - ours
