"""The sandbox server: create, start and close its two origins."""

import asyncio
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from nunu_async.sandbox.api import Api
from nunu_async.sandbox.builds import BuildStore, Upload
from nunu_async.sandbox.dialects import LETTERS, Dialect, Letter
from nunu_async.sandbox.faults import Fault, Faults
from nunu_async.sandbox.fixtures import (
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Outcome,
    Script,
    TestPlan,
)
from nunu_async.sandbox.history import Execution, ExecutionStatus, History, Run, RunState
from nunu_async.sandbox.journal import Journal
from nunu_async.sandbox.keys import Key, Keyring
from nunu_async.sandbox.listener import Listener, Sleep
from nunu_async.sandbox.objects import ObjectStore
from nunu_async.sandbox.project import Project
from nunu_async.sandbox.storage import Storage

_INITIATOR = MappingProxyType(
    {"type": "api", "value": {"key_id": "e4d3c2b1-a098-4876-8543-21f0e9d8c7b6"}}
)
_PROJECT = re.compile(r"[A-Za-z0-9_-]+")


class Sandbox:
    """A local nunu.ai: use it with `async with`, or call `start` and `close`.

    Sizes are in bytes, times in seconds. A `port` or `storage_port` of 0 picks a free port. If
    the request does not set `multipart`, uploads of at least `multipart_from` bytes are multipart.
    `capacity` None means no quota. `directory` None keeps data in memory; objects in a directory
    remain after `close`.

    `api_key` has all permissions; `keys` maps additional keys to their permissions. Runs follow
    `script` unless their test or `scripts` provides another. `dialect` selects the API docs whose
    format is used: `J` January 2026, `M` March, `L` the last unscoped pages, `N` the newest.

    Raises: ValueError for an invalid setting.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings, each with a default
        self,
        *,
        api_key: str = "nunu_sandbox_key_0123456789abcdef",
        keys: Mapping[str, Key | Iterable[str]] = MappingProxyType({}),
        project_id: str = "sandbox-project",
        part_size: int = 104_857_600,
        multipart_from: int = 3_000_000_000,
        capacity: int | None = None,
        max_file_size: int = 5 * 1024**4,
        url_life: float = 3600.0,
        directory: str | os.PathLike[str] | None = None,
        faults: Iterable[Fault] = (),
        script: Script = Script(),  # noqa: B008 - frozen
        dialect: Letter = "L",
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
        now: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not api_key:
            raise ValueError("api_key must not be empty")
        if not _PROJECT.fullmatch(project_id):
            raise ValueError(f"project_id {project_id!r} must be letters, digits, - and _")
        positive = {"part_size": part_size, "max_file_size": max_file_size, "url_life": url_life}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity must be 0 or more bytes, not {capacity}")
        if dialect not in LETTERS:
            raise ValueError(f"dialect must be one of {', '.join(LETTERS)}, not {dialect!r}")
        self.api_key = api_key
        self.project_id = project_id
        self.journal = Journal()
        self._faults = Faults(faults)
        self._keys = Keyring({**keys, api_key: Key()})
        self._history = History(script)
        self._project = Project(
            builds=BuildStore(
                project_id=project_id,
                part_size=part_size,
                multipart_from=multipart_from,
                capacity=capacity,
                max_file_size=max_file_size,
            ),
            objects=ObjectStore(None if directory is None else Path(directory)),
            history=self._history,
            dialect=Dialect(dialect, project_id=project_id, storage_url=lambda: self.storage_url),
            url_life=url_life,
            storage_url=lambda: self.storage_url,
            now=now,
        )
        self._host = host
        self._ports = (port, storage_port)
        self._bound_ports: list[int] = []
        self._now = now
        self._sleep = sleep
        self._listeners: list[Listener] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash. Raises: RuntimeError before `start`."""
        return f"{self._origin(0)}/api/v1"

    @property
    def storage_url(self) -> str:
        """The storage origin's URL. Raises: RuntimeError before `start`."""
        return self._origin(1)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that configure a client for this sandbox."""
        return {
            "NUNU_BASE_URL": self.base_url,
            "NUNU_API_KEY": self.api_key,
            "NUNU_PROJECT_ID": self.project_id,
        }

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in the order they were added."""
        return self._faults.all

    @property
    def uploads(self) -> Mapping[str, Upload]:
        """All uploads keyed by build id, oldest first; uploads past the deadline are expired."""
        self._project.builds.sweep(self._now())
        return MappingProxyType(self._project.builds.uploads)

    @property
    def tests(self) -> list[MultiplayerTest]:
        """The tests that can be started; the list may be modified."""
        return self._history.tests

    @tests.setter
    def tests(self, tests: Iterable[MultiplayerTest]) -> None:
        self._history.tests = list(tests)

    @property
    def test_plans(self) -> list[TestPlan]:
        """The test plans that can be started; the list may be modified."""
        return self._history.test_plans

    @test_plans.setter
    def test_plans(self, test_plans: Iterable[TestPlan]) -> None:
        self._history.test_plans = list(test_plans)

    @property
    def deployment_configs(self) -> list[DeploymentConfig]:
        """The deployment configs that runs can use; the list may be modified."""
        return self._history.deployment_configs

    @deployment_configs.setter
    def deployment_configs(self, deployment_configs: Iterable[DeploymentConfig]) -> None:
        self._history.deployment_configs = list(deployment_configs)

    @property
    def scripts(self) -> deque[Script]:
        """Scripts for the next runs; each started run, including retries, takes one."""
        return self._history.scripts

    @property
    def runs(self) -> Sequence[Run]:
        """All runs that have appeared, oldest first."""
        return tuple(reversed(self._history.runs(self._now())))

    @property
    def executions(self) -> Sequence[Execution]:
        """All test plan executions that have appeared, oldest first."""
        return tuple(reversed(self._history.executions(self._now())))

    def add_run(  # noqa: PLR0913 - keyword-only, each with a default
        self,
        *,
        test: MultiplayerTest | None = None,
        config: DeploymentConfig | None = None,
        script: Script | None = None,
        state: RunState = "COMPLETED",
        created: float | None = None,
        tags: Iterable[str] = (),
        build: Build | None = None,
        initiator: Mapping[str, object] = _INITIATOR,
        execution: Execution | None = None,
        run_id: str | None = None,
        job_id: str | None = None,
    ) -> Run:
        """Add a run to the history; from then on it follows its script.

        Without `created` (Unix seconds), the run has just entered `state`. Test and config default
        to the sandbox's first ones. If the job `job_id` exists, the run is added to it.

        Raises: ValueError when an id is taken, or `COMPLETED` is requested for an endless run.
        """
        test = test or self.tests[0]
        script = script or test.script or self._history.script
        ages = {
            "INITIALIZING": 0.0,
            "RUNNING": script.initialize_seconds,
            "COMPLETED": script.seconds,
        }
        run = Run(
            number=self._history.next_run,
            test=test,
            config=config or self.deployment_configs[0],
            script=script,
            created=self._created("a run", ages[state]) if created is None else created,
            tags=tuple(tags),
            build=build,
            initiator=initiator,
            given_id=run_id,
        )
        self._history.add_run(run, job_id=job_id)
        if execution is not None:
            self._history.attach(run, execution)
        return run

    def add_execution(
        self,
        *,
        plan: TestPlan | None = None,
        outcome: Outcome | None = None,
        status: ExecutionStatus = "completed",
        created: float | None = None,
        build: Build | None = None,
        started_by: str | None = "qa@sandbox.example",
        execution_id: str | None = None,
    ) -> Execution:
        """Add a test plan execution to the history; from then on it follows its outcome.

        Without `created` (Unix seconds), the execution has just entered `status`. The plan defaults
        to the sandbox's first plan, if any; the default outcome is that all tests pass. Once runs
        are added to an execution, only their jobs determine its state.

        Raises: ValueError when the id is taken, or an endless execution is given as completed.
        """
        plan = plan or next(iter(self.test_plans), None)
        outcome = outcome or Outcome(passed=len(plan.tests) if plan is not None else 1)
        ages = {
            "queued": 0.0,
            "in_progress": outcome.queue_seconds,
            "completed": outcome.queue_seconds + outcome.run_seconds,
        }
        execution = Execution(
            number=self._history.next_execution,
            plan=plan,
            created=self._created("an execution", ages[status]) if created is None else created,
            outcome=outcome,
            build=build,
            started_by=started_by,
            given_id=execution_id,
        )
        self._history.add_execution(execution)
        return execution

    def set_script(self, run_id: str, script: Script) -> None:
        """Replace the script of a run; script times count from the run's creation.

        Does not add or remove retries. Raises: KeyError when there is no such run.
        """
        run = self._history.find_run(run_id, self._now())
        if run is None:
            raise KeyError(run_id)
        run.script = script

    def add_fault(self, fault: Fault) -> None:
        """Add a fault; only later requests are counted for it."""
        self._faults.add(fault)

    def read_object(self, build_id: str) -> bytes:
        """Return the bytes of a completed object. Raises: KeyError if not found."""
        return self._project.objects.read(build_id)

    def object_path(self, build_id: str) -> Path | None:
        """Return the path of a completed object; None in memory. Raises: KeyError if not found."""
        return self._project.objects.path(build_id)

    def object_sha256(self, build_id: str) -> str:
        """Return the SHA-256 of a completed object in hex. Raises: KeyError if not found."""
        return self._project.objects.sha256(build_id)

    async def start(self) -> None:
        """Listen on both ports; a sandbox can be started only once.

        Raises: OSError when a port is taken, RuntimeError on a second start.
        """
        if self._listeners is not None:
            raise RuntimeError("sandbox was already started")
        self._project.objects.open()
        self._listeners = [
            Listener(handler, journal=self.journal, faults=self._faults, sleep=self._sleep)
            for handler in (Api(self._project, self._keys), Storage(self._project))
        ]
        try:
            self._bound_ports = [
                await listener.start(self._host, port)
                for listener, port in zip(self._listeners, self._ports, strict=True)
            ]
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Cancel open and stalled requests, stop listening, delete unfinished parts.

        Completed objects stay readable. Closing twice, or before `start`, does nothing.
        """
        listeners = self._listeners or []
        for listener in listeners:
            await listener.close()
        if listeners:
            await self._project.objects.close()
            listeners.clear()

    def _created(self, what: str, age: float) -> float:
        if age == math.inf:
            raise ValueError(f"{what} that goes on for good is never completed")
        return self._now() - age

    def _origin(self, index: int) -> str:
        if not self._bound_ports:
            raise RuntimeError("sandbox was not started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._bound_ports[index]}"
