"""The fixtures of a project: tests, plans and configs, and the scripts that runs follow.

All of it is frozen and shared between runs, to save memory.
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
    """A build that runs and executions refer to; it need not be uploaded."""

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
    """One file that a run produces, for each of its players."""

    filename: str
    size: int = attrs.field(default=0, validator=_COUNT)
    url: str | None = None
    """None generates a URL on the storage origin, which serves nothing there."""


@attrs.frozen(kw_only=True)
class Bug:
    """One occurrence of a bug."""

    bug_id: str
    """The same for all occurrences of the bug, over all runs."""
    title: str = "Something is wrong"
    description: str = "It does not look as it should."
    category: str = "gameplay"
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    confidence: Literal["low", "medium", "high"] = "medium"
    reproduction_steps: str = "1. Start\n2. Look"
    player_number: int = attrs.field(default=0, validator=_COUNT)
    """From 0, as documented, even where the players themselves are numbered from 1."""
    test_step: int = 1
    turn: int = 1
    details: Mapping[str, object] | None = attrs.field(default=None, hash=False)


@attrs.frozen(kw_only=True)
class Script:
    """The course of a run, from the start of its job to the end.

    Results are those of the newest API docs; older dialects translate them, and send an unknown
    one as it is. The result and the bugs are shown once the run is completed.
    """

    queue_seconds: float = attrs.field(default=0.0, validator=_FINITE)
    """From the start of the job to the appearance of the run."""
    initialize_seconds: float = attrs.field(default=5.0, validator=_FINITE)
    run_seconds: float = attrs.field(default=30.0, validator=_SECONDS)
    """Infinity for a run that lasts until it is stopped."""
    cleanup_seconds: float = attrs.field(default=0.0, validator=_FINITE)
    """From the end of the run to the end of its job."""
    result: str = "SUCCESS"
    bugs: Sequence[Bug] = attrs.field(default=(), hash=False)
    steps: Sequence[Step] | None = attrs.field(default=None, hash=False)
    """None uses the goals of the test, the last of which has the result of the run."""
    artifacts: Sequence[Artifact] = attrs.field(default=(), hash=False)

    @property
    def seconds(self) -> float:
        """From the appearance of the run to its end."""
        return self.initialize_seconds + self.run_seconds


@attrs.frozen(kw_only=True)
class MultiplayerTest:
    """One test of the project; filters only accept its id if it is a UUID."""

    id: str
    name: str
    kind: TestKind = "verification"
    players: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    goals: Sequence[str] = attrs.field(default=("Start the game",), hash=False)
    script: Script | None = None
    """The default script of its runs; None uses that of the sandbox."""

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

    __test__: ClassVar[bool] = False  # keeps pytest from taking it for a class of tests

    id: str
    name: str
    tests: Sequence[MultiplayerTest] = attrs.field(hash=False)


@attrs.frozen(kw_only=True)
class DeploymentConfig:
    """What runs are executed on."""

    id: str
    name: str
    source: str = "build-storage"
    """Only with `build-storage` may a request have a build id."""
    platform: str = "android-native"
    device: str = "Pixel 9"
    os_version: str = "15"
    device_labels: Sequence[str] = attrs.field(default=(), hash=False)
    """The devices for a start on all devices; empty when the config does not allow that."""
    broken_devices: Collection[str] = ()
    """Those of the devices on which every start fails."""


@attrs.frozen(kw_only=True)
class Outcome:
    """The course and the counts of a test plan execution without runs of its own."""

    passed: int = attrs.field(default=0, validator=_COUNT)
    failed: int = attrs.field(default=0, validator=_COUNT)
    stopped: int = attrs.field(default=0, validator=_COUNT)
    skipped: int = attrs.field(default=0, validator=_COUNT)
    """Older dialects than the newest count them as stopped."""
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
