"""The same play as steps of a Hypothesis state machine, which makes what fails small.

`test_upload_machine.py` draws whole scenarios by the thousand; here each upload, fault,
cancellation and change of a file is a step of its own, and what the steps have set up is played at
their end.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_upload_machine import (
    CHANGES,
    OPERATIONS,
    PART,
    STATUSES,
    Act,
    Moment,
    Scenario,
    Wanted,
    run_scenario,
)

from nunu_async.sandbox import Fault

ON = st.sampled_from(sorted(set(OPERATIONS)))
FIRST = st.integers(1, 5)
MOMENTS = st.one_of(
    st.builds(Moment, st.just("turn"), st.integers(0, 299)),
    st.builds(Moment, st.just("request"), st.integers(0, 24)),
    st.builds(Moment, st.just("event"), st.integers(0, 19)),
    st.builds(Moment, st.just("operation"), st.integers(0, 11), ON),
)


class Uploads(RuleBasedStateMachine):
    """One or two uploads of one client, and what happens to them."""

    folders = itertools.count()
    room: Path

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[Wanted] = []
        self.faults: list[Fault] = []
        self.acts: list[Act] = []

    @initialize(
        size=st.sampled_from([1, PART, PART + 1, 3 * PART, 5 * PART - 1]),
        multipart=st.booleans(),
        verify=st.booleans(),
        resume=st.booleans(),
        concurrency=st.integers(1, 5),
    )
    def upload(
        self, *, size: int, multipart: bool, verify: bool, resume: bool, concurrency: int
    ) -> None:
        self.uploads.append(
            Wanted(
                size=size,
                multipart=multipart,
                verify=verify,
                resume=resume,
                concurrency=concurrency,
                auto_delete=False,
                raises=None,
            )
        )

    @precondition(lambda self: len(self.uploads) == 1)
    @rule(size=st.sampled_from([PART, 4 * PART]), multipart=st.booleans(), resume=st.booleans())
    def upload_another(self, *, size: int, multipart: bool, resume: bool) -> None:
        self.upload(size=size, multipart=multipart, verify=False, resume=resume, concurrency=2)

    @rule(on=ON, first=FIRST, status=st.sampled_from(sorted(set(STATUSES))))
    def refuse(self, *, on: str, first: int, status: int) -> None:
        self.faults.append(Fault(on=on, first=first, status=status))

    @rule(on=ON, first=FIRST, effect=st.booleans())
    def cut(self, *, on: str, first: int, effect: bool) -> None:
        self.faults.append(Fault(on=on, first=first, do="cut", effect=effect))

    @rule(on=ON, first=FIRST, effect=st.booleans())
    def stall(self, *, on: str, first: int, effect: bool) -> None:
        self.faults.append(Fault(on=on, first=first, do="stall", effect=effect))

    @rule(first=FIRST)
    def corrupt(self, *, first: int) -> None:
        self.faults.append(Fault(on="put_part", first=first, do="corrupt"))

    @rule(at=MOMENTS, which=st.integers(0, 1))
    def cancel(self, *, at: Moment, which: int) -> None:
        self.acts.append(Act(do="cancel", upload=which % len(self.uploads), at=at))

    @rule(at=MOMENTS, which=st.integers(0, 1), change=st.sampled_from(CHANGES))
    def change_file(self, *, at: Moment, which: int, change: str) -> None:
        where = which % len(self.uploads)
        self.acts.append(Act(do="change", upload=where, at=at, change=change))  # type: ignore[arg-type] - one of them

    @rule(at=MOMENTS)
    def close(self, *, at: Moment) -> None:
        self.acts.append(Act(do="close", upload=0, at=at))

    def teardown(self) -> None:
        if self.uploads:
            steps = (tuple(self.uploads), tuple(self.faults), tuple(self.acts))
            played = Scenario(uploads=steps[0], faults=steps[1], acts=steps[2], chance=0.5)
            run_scenario(played, self.room / str(next(self.folders)))


def test_uploads_keep_all_invariants_whatever_steps_are_taken(tmp_path: Path) -> None:
    class Here(Uploads):
        room = tmp_path

    run_state_machine_as_test(
        Here, settings=settings(max_examples=60, stateful_step_count=6, deadline=None)
    )
