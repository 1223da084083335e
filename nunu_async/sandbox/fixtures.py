"""The fixtures of a project: tests, plans and configs, and the scripts that runs follow.

All fixtures are frozen, and runs share them to save memory.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import attrs

TestKind = Literal["verification", "task", "discovery"]


_COUNT = attrs.validators.ge(0)
_SECONDS = attrs.validators.ge(0.0)
_FINITE = (_SECONDS, attrs.validators.lt(math.inf))


@attrs.frozen
class Build:
    """A build that runs and executions reference; it need not have been uploaded."""

    id: str
    name: str


@attrs.frozen(kw_only=True)
class Step:
    """One step of a run."""

    goal: str
    finish_condition: str = ""
    result: str = "SUCCESS"
    report: str | None = None


@attrs.frozen(kw_only=True)
class Artifact:
    """One file that a run produces for each player."""

    filename: str
    size: int = attrs.field(default=0, validator=_COUNT)
    url: str | None = None
    """None generates a storage URL, which cannot be downloaded."""


@attrs.frozen(kw_only=True)
class Bug:
    """One occurrence of a bug."""

    bug_id: str
    """The same for all occurrences of a bug, across runs."""
    title: str = "Something is wrong"
    description: str = "It does not look as it should."
    category: str = "gameplay"
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    confidence: Literal["low", "medium", "high"] = "medium"
    reproduction_steps: str = "1. Start\n2. Look"
    player_number: int = attrs.field(default=0, validator=_COUNT)
    """0-based, as documented, even in dialects whose players are numbered from 1."""
    test_step: int = 1
    turn: int = 1
    details: Mapping[str, object] | None = attrs.field(default=None, hash=False)


@attrs.frozen(kw_only=True)
class Script:
    """The course of a run, from the start of its job to the end.

    Results use the values of the newest API docs; older dialects translate known values and pass
    on unknown ones. The result and the bugs are visible once the run is completed.
    """

    queue_seconds: float = attrs.field(default=0.0, validator=_FINITE)
    """Seconds from the start of the job until the run appears."""
    initialize_seconds: float = attrs.field(default=5.0, validator=_FINITE)
    run_seconds: float = attrs.field(default=30.0, validator=_SECONDS)
    """Infinity for a run that only ends when it is stopped."""
    cleanup_seconds: float = attrs.field(default=0.0, validator=_FINITE)
    """Seconds from the end of the run to the end of its job."""
    result: str = "SUCCESS"
    bugs: Sequence[Bug] = attrs.field(default=(), hash=False)
    steps: Sequence[Step] | None = attrs.field(default=None, hash=False)
    """None creates one step per goal of the test; the last step gets the result of the run."""
    artifacts: Sequence[Artifact] = attrs.field(default=(), hash=False)

    @property
    def seconds(self) -> float:
        """Seconds from when the run appears until it ends."""
        return self.initialize_seconds + self.run_seconds


@attrs.frozen(kw_only=True)
class MultiplayerTest:
    """One test of the project; the id must be a UUID to be usable in filters."""

    id: str
    name: str
    kind: TestKind = "verification"
    players: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    goals: Sequence[str] = attrs.field(default=("Start the game",), hash=False)
    script: Script | None = None
    """The default script for runs of this test; None uses the sandbox's script."""

    def steps(self, script: Script) -> Iterator[Step]:
        """Yield the steps of a run that follows a script."""
        if script.steps is not None:
            yield from script.steps
            return
        for goal in self.goals[:-1]:
            yield Step(goal=goal)
        for goal in self.goals[-1:]:
            yield Step(goal=goal, result=script.result)


@attrs.frozen(kw_only=True)
class TestPlan:
    """Tests to start together."""

    __test__: ClassVar[bool] = False  # keeps pytest from collecting this class

    id: str
    name: str
    tests: Sequence[MultiplayerTest] = attrs.field(hash=False)


@attrs.frozen(kw_only=True)
class DeploymentConfig:
    """The platform and devices that execute runs."""

    id: str
    name: str
    source: str = "build-storage"
    """A request may contain a build id only if this is `build-storage`."""
    platform: str = "android-native"
    device: str = "Pixel 9"
    os_version: str = "15"
    device_labels: Sequence[str] = attrs.field(default=(), hash=False)
    """The devices for a multi-device start; empty if the config does not allow one."""
    broken_devices: Collection[str] = ()
    """The subset of `device_labels` on which every start fails."""


@attrs.frozen(kw_only=True)
class Outcome:
    """The timing and the counts of a test plan execution that has no runs."""

    passed: int = attrs.field(default=0, validator=_COUNT)
    failed: int = attrs.field(default=0, validator=_COUNT)
    stopped: int = attrs.field(default=0, validator=_COUNT)
    skipped: int = attrs.field(default=0, validator=_COUNT)
    """Dialects older than `N` count skipped tests as stopped."""
    queue_seconds: float = attrs.field(default=5.0, validator=_FINITE)
    run_seconds: float = attrs.field(default=60.0, validator=_SECONDS)

    @property
    def total(self) -> int:
        """Count the tests."""
        return self.passed + self.failed + self.stopped + self.skipped


def _test(number: int, name: str, kind: TestKind, goals: tuple[str, ...]) -> MultiplayerTest:
    return MultiplayerTest(
        id=f"7e570000-0000-4000-8000-{number:012x}", name=name, kind=kind, goals=goals
    )


TESTS = (
    _test(1, "Shop purchase", "verification", ("Open the shop", "Buy a lantern")),
    _test(2, "First quest", "task", ("Talk to the guard", "Find the key", "Open the gate")),
    _test(3, "Free roaming", "discovery", ("Explore the harbor",)),
)

TEST_PLANS = (
    TestPlan(id="91a00000-0000-4000-8000-000000000001", name="Release gate", tests=TESTS[:2]),
)

DEPLOYMENT_CONFIGS = (
    DeploymentConfig(id="de910000-0000-4000-8000-000000000001", name="Phones"),
    DeploymentConfig(
        id="de910000-0000-4000-8000-000000000002",
        name="Newest build by URL",
        source="http",
        platform="windows",
        device="Desktop",
        os_version="11",
    ),
)
