"""`NunuClient`: wires the rooms and owns their lifetime."""

from __future__ import annotations

import asyncio
import os
import platform as host
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import aiohttp

from nunu_async import endpoints, models, polling, upload
from nunu_async.config import Config, PathStyle, Timeouts, check_at_once, check_bandwidth
from nunu_async.core.attempt import OnAttempt, checked
from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.core.proxies import Proxies
from nunu_async.core.retry import RetryPolicy
from nunu_async.core.session import Session
from nunu_async.core.tls import check_certificates
from nunu_async.endpoints.anything import anything
from nunu_async.errors import ClientClosed, ConfigError
from nunu_async.polling import INTERVAL
from nunu_async.upload.readers import Readers
from nunu_async.version import __version__

__all__ = ["NunuClient"]

T = TypeVar("T")
R = TypeVar("R")

# Four threads for each file that may be open, if its disk hangs; most of them are never started.
_READERS_A_FILE = 4


class NunuClient:
    """Talk to the nunu.ai API.

    An async context manager; one for each event loop, shared by any number of tasks in it.

    Settings come from the argument, then the environment (`NUNU_API_KEY`, then
    `NUNU_API_TOKEN`; `NUNU_PROJECT_ID`; `NUNU_BASE_URL`, then `NUNU_API_URL`), then defaults.

    Args:
        api_key: sent in `X-Api-Key`, to the API only.
        project_id: named in requests that can carry it.
        base_url: ``https://nunu.ai``, with or without ``/api`` or ``/api/v1``.
        timeout: seconds for one API call over all its attempts, or a `Timeouts` that sets every
            limit, stall limits included. Completing an upload has a limit of its own there.
        retry: how often and how patiently to try again.
        session: an aiohttp session to send API requests with, used and not closed; its own
            middlewares are not run, its own proxy is used. Requests with an upload id in their
            query go over its connections too, but past its trace configs and those that other
            libraries have added. Storage never uses it.
        ssl_context: for both API and storage, where the system's certificates are not enough.
        api_concurrency: API requests under way at once.
        storage_concurrency: parts under way at once, over all uploads of this client.
        max_bandwidth: bytes a second that leave for storage, over all uploads of this client, from
            1024; None is no limit.
        allow_http: permit plain http to hosts other than this machine.
        trust_env: take proxies from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`; what runs on this
            machine is reached straight all the same. `.netrc` is never read.
        path_style: ``project`` for paths of the form ``/project/{projectId}/...``; None takes them
            for organization keys (``nunu_org_...``), and the shorter ones for project keys.
        state_dir: where uploads to be resumed keep their journals; None takes `NUNU_STATE_DIR`,
            then the system's place for state.
        on_attempt: a function that is called after each attempt of an API call and of a part, with
            an `Attempt`, which holds no secret: what metrics and traces are made of. What it
            raises is logged.
        clock: where time, pauses and chance come from; tests pass their own.

    Raises: ConfigError for settings that cannot work; nothing is sent.
    """

    def __init__(  # noqa: PLR0913 - the settings of a client
        self,
        api_key: str | None = None,
        *,
        project_id: str | None = None,
        base_url: str | None = None,
        timeout: float | Timeouts | None = None,
        retry: RetryPolicy | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        api_concurrency: int = 32,
        storage_concurrency: int = 16,
        max_bandwidth: float | None = None,
        allow_http: bool = False,
        trust_env: bool = True,
        path_style: PathStyle | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        on_attempt: OnAttempt | None = None,
        clock: Clock | None = None,
    ) -> None:
        settings = _settings(
            api_key=api_key,
            project_id=project_id,
            base_url=base_url,
            allow_http=allow_http,
            path_style=path_style,
            state_dir=state_dir,
            tls=ssl_context,
            trust_env=trust_env,
        )
        # Error trackers record the locals of every frame that an error leaves by.
        del api_key, base_url
        if isinstance(settings, ConfigError):
            raise settings
        config, proxies = settings
        for name, limit in (
            ("api_concurrency", api_concurrency),
            ("storage_concurrency", storage_concurrency),
        ):
            if problem := check_at_once(limit):
                raise ConfigError(f"{name} {problem}")
        if problem := check_bandwidth(max_bandwidth):
            raise ConfigError(f"max_bandwidth {problem}")
        self._on_attempt = checked(on_attempt)
        agent = _user_agent()
        self._config = config
        self._clock = clock or SystemClock()
        self._policy = retry or RetryPolicy()
        self._timeouts = _timeouts(timeout)
        self._storage_concurrency = storage_concurrency
        self._max_bandwidth = max_bandwidth
        # One thread: what several tasks need at once is loaded once, and they wait for it.
        self._loader = Readers(1)
        self._session = Session(
            config,
            clock=self._clock,
            policy=self._policy,
            timeouts=self._timeouts,
            concurrency=api_concurrency,
            user_agent=agent,
            loader=self._loader,
            http=session,
            tls=ssl_context,
            proxies=proxies,
            on_attempt=self._on_attempt,
        )
        self._open_storage: Callable[[], upload.Storage] = lambda: upload.Storage(
            clock=self._clock,
            timeouts=self._timeouts,
            concurrency=storage_concurrency,
            user_agent=agent,
            allow_http=allow_http,
            allow_loopback=config.is_local,
            tls=ssl_context,
            proxies=proxies,
            max_bandwidth=max_bandwidth,
        )
        self._readers = Readers(_READERS_A_FILE * storage_concurrency + _READERS_A_FILE)
        self._writer = Readers(1)
        self._closed = False

    # What follows is made when it is first asked for, and so is its code loaded: who lists runs
    # needs nothing that uploads, and who uploads nothing that waits.

    @cached_property
    def builds(self) -> endpoints.Builds:
        """The operations of build storage, one by one."""
        return endpoints.Builds(
            self._session, project_id=self._config.project_id, patience=self._timeouts.complete
        )

    @cached_property
    def runs(self) -> endpoints.Runs:
        """List, read, start and stop runs."""
        return endpoints.Runs(self._session)

    @cached_property
    def jobs(self) -> endpoints.Jobs:
        """List and read what starts have queued."""
        return endpoints.Jobs(self._session)

    @cached_property
    def test_plan_executions(self) -> endpoints.TestPlanExecutions:
        """List executions of test plans."""
        return endpoints.TestPlanExecutions(self._session)

    @cached_property
    def _polling(self) -> polling.Polling:
        return polling.Polling(
            runs=self.runs,
            jobs=self.jobs,
            executions=self.test_plan_executions,
            clock=self._clock,
            cleanup=self._timeouts.cleanup,
            closed=self._closed,
        )

    @cached_property
    def _storage(self) -> upload.Storage:
        return self._open_storage()

    @cached_property
    def _shelf(self) -> upload.Shelf:
        return upload.Shelf(
            self._config.state_dir,
            base_url=self._config.base_url,
            project_id=self._config.project_id,
            key=self._config.api_key,
            executor=self._writer,
            clock=self._clock,
        )

    @cached_property
    def _uploader(self) -> upload.Uploader:
        return upload.Uploader(
            self.builds,
            self._storage,
            clock=self._clock,
            policy=self._policy,
            timeouts=self._timeouts,
            concurrency=self._storage_concurrency,
            executor=self._readers,
            shelf=self._shelf,
            max_bandwidth=self._max_bandwidth,
            on_attempt=self._on_attempt,
        )

    async def warm_up(self) -> None:
        """Load all code that this client may need, on another thread; nothing is sent.

        Otherwise the first call, upload, list or wait of a process loads its code, in part on the
        event loop, which is held up for tens of milliseconds. A service that cannot have that
        awaits this when it starts. May be called any number of times, by any number of tasks; the
        first takes up to half a second, the others none. Where no thread can be started, the code
        is loaded on the event loop.

        Raises: NunuError where a module cannot be loaded; ClientClosed.
        """
        await self._load(_load_everything)
        self._check_open()

    async def _load(self, load: Callable[[], object]) -> None:
        """Load code: in a thread, as it takes longer than a turn of the loop may."""
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._loader, load)

    async def _load_uploader(self) -> None:
        """Load the code that uploads. Raises: ClientClosed."""
        # A package has the name of a module of its own once that is loaded to its end.
        if "many" not in vars(upload):
            await self._load(_load_uploads)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed; make a new one")

    async def _read(self, call: Callable[[T], R], argument: T) -> R:
        """Make a call that may ask a disk, on a thread. Raises: ClientClosed; what it raises."""
        self._check_open()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._readers, call, argument)
        self._check_open()
        return result

    async def _load_polling(self) -> None:
        """Load the code that waits."""
        if "room" not in vars(polling):
            await self._load(lambda: polling.Polling)

    async def upload_build(  # noqa: PLR0913 - the documented fields of an upload
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        platform: models.Platform | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        multipart: bool | None = None,
        auto_delete: bool = False,
        deletion_policy: models.DeletionPolicy | None = None,
        upload_timeout: int | None = None,
        details: models.BuildDetails | None = None,
        concurrency: int = 4,
        verify: bool = False,
        resume: bool = False,
        on_progress: upload.Listener | None = None,
    ) -> upload.UploadedBuild:
        """Put a build file into build storage.

        The file is streamed: memory does not grow with it. `concurrency` parts of it are sent at
        once, within the client's `storage_concurrency`. When this raises, cancellation included,
        nothing is still running and the server was told to forget the upload, unless it may
        have completed it.

        Args:
            path: a regular file, at least one byte long.
            name: 1 to 255 characters.
            platform: None infers it from the file's extension.
            description: at most 1000 characters.
            tags: 1 to 50 characters each.
            multipart: None asks for multipart above 128 MiB; the server's answer is obeyed.
            auto_delete: let the server delete old builds when storage is full.
            deletion_policy: which builds `auto_delete` takes first.
            upload_timeout: minutes, 1 to 1440, after which the server forgets the upload; None
                takes what 1 MiB/s needs (or its share of `max_bandwidth` where all uploads that
                may run at once share it, if that is less), at least the server's own 10 for a
                single part and 60 for several, and 1440 for several with `resume`.
            details: where the build comes from.
            concurrency: parts of this file under way at once.
            verify: compare the MD5 of each part with its ETag, where that is one, and send the
                part again where they differ; the result's `verified` counts those that agree.
            resume: keep a journal, and go on with what an earlier call of the same file, name,
                platform, description and tags has left: only parts that are missing are sent. A
                failure or cancellation then leaves the upload on the server, and its notes say
                so, unless it is of no more use: the file has changed, or it has a single part.
            on_progress: a function or coroutine function, told each `UploadEvent` in order;
                what it raises ends the upload.

        Raises: SourceError and InputError before anything is sent, SourceError also for a file
            that is being uploaded with `resume` already; QuotaExceeded and the other
            ApiErrors; UploadError when a part does not go up; SourceChanged when the file
            changes meanwhile; UploadOutcomeUnknown when the server would not say.
        """
        await self._load_uploader()
        job = upload.BuildFile(
            path=path,
            name=name,
            platform=platform,
            description=description,
            tags=tags,
            multipart=multipart,
            auto_delete=auto_delete,
            deletion_policy=deletion_policy,
            upload_timeout=upload_timeout,
            details=details,
            concurrency=concurrency,
            verify=verify,
            resume=resume,
        )
        return await self._uploader.upload(job, on_progress)

    async def upload_builds(  # noqa: PLR0913 - those of `upload_build`, for many
        self,
        files: Iterable[str | os.PathLike[str] | upload.BuildFile],
        *,
        name: str | None = None,
        platform: models.Platform | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        multipart: bool | None = None,
        auto_delete: bool = False,
        deletion_policy: models.DeletionPolicy | None = None,
        upload_timeout: int | None = None,
        details: models.BuildDetails | None = None,
        concurrency: int = 4,
        verify: bool = False,
        resume: bool = False,
        fail_fast: bool = False,
        on_progress: upload.FileListener | None = None,
        on_result: Callable[[upload.UploadResult], None] | None = None,
    ) -> tuple[upload.UploadResult, ...]:
        """Put many build files into build storage; return what became of each, in that order.

        All of them share the client's `storage_concurrency`: that many files are open and that
        many parts under way at most, and the others wait. One that fails stops no other. When
        this raises, cancellation included, nothing is still running and each upload that was
        under way has been given up as `upload_build` does it.

        Args:
            files: paths, to which the settings here apply, and `BuildFile`s, which have their own.
            name: of every path; None takes each file's own name, after as many of its folders as
                tell it from others of that name (``arm64/app.apk``).
            platform: see `upload_build`, as for all up to `resume`.
            description: see there.
            tags: see there.
            multipart: see there.
            auto_delete: see there.
            deletion_policy: see there.
            upload_timeout: see there.
            details: see there.
            concurrency: parts of one file under way at once.
            verify: see there.
            resume: see there.
            fail_fast: raise the first failure, and give up what is under way.
            on_progress: a function or coroutine function, told each file and `UploadEvent`; what
                it raises ends all.
            on_result: a function, told each result as it is there.

        Raises: InputError before anything is sent, also for a file given twice under one name;
            SourceError for a relative path where the working directory is gone.
        """
        await self._load_uploader()
        given = list(files)
        paths = [file for file in given if not isinstance(file, upload.BuildFile)]
        for path in paths:
            upload.check_path(path)
        # On a thread: macOS asks a volume whether it ignores case, and a dead one never answers.
        if name is None:
            names = iter(await self._read(upload.short_names, paths))
        else:
            names = iter([name] * len(paths))
        jobs = [
            file
            if isinstance(file, upload.BuildFile)
            else upload.BuildFile(
                path=file,
                name=next(names),
                platform=platform,
                description=description,
                tags=tags,
                multipart=multipart,
                auto_delete=auto_delete,
                deletion_policy=deletion_policy,
                upload_timeout=upload_timeout,
                details=details,
                concurrency=concurrency,
                verify=verify,
                resume=resume,
            )
            for file in given
        ]
        await self._read(upload.check, jobs)
        return await upload.upload_all(
            self._uploader,
            jobs,
            fail_fast=fail_fast,
            on_progress=on_progress,
            on_result=on_result,
        )

    async def wait_for_execution(
        self,
        execution_id: str,
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.TestPlanExecution] | None = None,
        raise_on_failure: bool = False,
    ) -> models.TestPlanExecution:
        """Wait until one execution is over; see `wait_for_executions`."""
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.executions.one(execution_id, terms)

    async def wait_for_executions(
        self,
        execution_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.TestPlanExecution] | None = None,
        raise_on_failure: bool = False,
    ) -> tuple[models.TestPlanExecution, ...]:
        """Wait until all of these test-plan executions are over; return them in the order asked.

        All waits of a client share one loop, which reads lists: ten thousand calls cost the server
        what one call for ten thousand ids costs, a page for each hundred that are not over. What
        failed is a result like any other. An id that the server shows nowhere for a quarter of a
        minute is `NotFound`, once the others are over. Failures that may pass (network, 5xx, 429)
        only lengthen the pauses.

        Args:
            execution_ids: ids; one that stands twice is given twice.
            timeout: seconds for all of them; None waits for ever.
            interval: seconds from the end of one look to the start of the next, and up to a tenth
                more; the first look is at once.
            on_change: a function or coroutine function, told each `Change` of state that a look
                found, the first sight included; what it raises ends the wait.
            raise_on_failure: raise `RunFailed`, once all are over, if any did not succeed.

        Raises: InputError before anything is sent; WaitTimeout, which has what finished and the
            last state of the rest; NotFound; RunFailed; AuthenticationError and PermissionDenied,
            which end every wait of the client; ClientClosed.
        """
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.executions.many(execution_ids, terms)

    def executions_as_completed(
        self,
        execution_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.TestPlanExecution] | None = None,
        raise_on_failure: bool = False,
    ) -> AsyncGenerator[models.TestPlanExecution, None]:
        """Give each execution as it is over, each once; see `wait_for_executions`.

        Nothing is sent before the first step. `raise_on_failure` ends it at the first that failed.
        """
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return self._polling.executions.as_completed(execution_ids, terms)

    async def wait_for_run(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Run] | None = None,
        raise_on_failure: bool = False,
    ) -> models.Run:
        """Wait until one run is over; see `wait_for_runs`."""
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.runs.one(run_id, terms)

    async def wait_for_runs(
        self,
        run_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Run] | None = None,
        raise_on_failure: bool = False,
    ) -> tuple[models.Run, ...]:
        """Wait until all of these runs are over; return them in the order asked.

        As `wait_for_executions`. Run ids, not job ids; `nunu.runs.get` tells the steps of a run.
        """
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.runs.many(run_ids, terms)

    def runs_as_completed(
        self,
        run_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Run] | None = None,
        raise_on_failure: bool = False,
    ) -> AsyncGenerator[models.Run, None]:
        """Give each run as it is over, each once; see `wait_for_runs`.

        Nothing is sent before the first step. `raise_on_failure` ends it at the first that failed.
        """
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return self._polling.runs.as_completed(run_ids, terms)

    async def wait_for_job(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Job] | None = None,
        raise_on_failure: bool = False,
    ) -> models.Job:
        """Wait until one job is over; see `wait_for_jobs`."""
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.jobs.one(job_id, terms)

    async def wait_for_jobs(
        self,
        job_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Job] | None = None,
        raise_on_failure: bool = False,
    ) -> tuple[models.Job, ...]:
        """Wait until all of these jobs are over, retries included; return them in the order asked.

        As `wait_for_executions`. Job ids are what a start gives; the runs of a job are in `.runs`.
        """
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return await self._polling.jobs.many(job_ids, terms)

    def jobs_as_completed(
        self,
        job_ids: Sequence[str],
        *,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_change: polling.OnChange[models.Job] | None = None,
        raise_on_failure: bool = False,
    ) -> AsyncGenerator[models.Job, None]:
        """Give each job as it is over, each once; see `wait_for_jobs`.

        Nothing is sent before the first step. `raise_on_failure` ends it at the first that failed.
        """
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        return self._polling.jobs.as_completed(job_ids, terms)

    async def run_and_wait(  # noqa: PLR0913 - the documented members of a start, and how to wait
        self,
        *,
        deployment_config_id: str,
        multiplayer_test_id: str | None = None,
        test_plan_id: str | None = None,
        instructions: str | None = None,
        build_id: str | None = None,
        name: str | None = None,
        agent_config_id: str | None = None,
        additional_tags: Sequence[str] = (),
        retries: int | None = None,
        instances: int | None = None,
        render_templates: bool = False,
        template_data: Mapping[str, object] | None = None,
        options: models.RunOptions | None = None,
        marker: bool = True,
        timeout: float | None = None,
        interval: float = INTERVAL,
        on_start: polling.OnStart | None = None,
        on_change: polling.OnChange[models.Job] | None = None,
        raise_on_failure: bool = False,
        stop_on_cancel: bool = True,
    ) -> models.FinishedRun:
        """Start a test, a test plan or instructions, and wait until all of its jobs are over.

        Takes what `nunu.runs.start` and `wait_for_jobs` take; `timeout` is for the wait, and what
        was started goes on after it. `on_start` is told what was started, before the wait. When
        this call is cancelled it stops what it started first, unless `stop_on_cancel` is False.

        Raises: what `nunu.runs.start` and `wait_for_jobs` raise.
        """
        await self._load_polling()
        terms = polling.Terms(timeout, interval, on_change, raise_on_failure)
        start = self.runs.start(
            deployment_config_id=deployment_config_id,
            multiplayer_test_id=multiplayer_test_id,
            test_plan_id=test_plan_id,
            instructions=instructions,
            build_id=build_id,
            name=name,
            agent_config_id=agent_config_id,
            additional_tags=additional_tags,
            retries=retries,
            instances=instances,
            render_templates=render_templates,
            template_data=template_data,
            options=options,
            marker=marker,
        )
        return await self._polling.run_to_end(
            start, terms, on_start=on_start, stop_on_cancel=stop_on_cancel
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | bool | Sequence[str]] | None = None,
        json: Mapping[str, object] | None = None,
    ) -> object:
        """Ask for any path of the API; return the decoded JSON, or None where there is no body.

        Same key, limits, retries, errors and redaction as everywhere: GET and DELETE may be
        repeated, any other method only where the server cannot have acted.

        Args:
            method: an HTTP method.
            path: below ``/api/v1``, with a leading slash and its ids quoted.
            params: the query; a list is joined with commas, as the API wants it.
            json: the body.

        Raises: InputError; ApiError; DecodeError; TransportError.
        """
        return await self._session.send(anything(method, path, params, json))

    async def close(self) -> None:
        """End waits and uploads that are under way, then every connection; may be called twice.

        They end with `ClientClosed`, uploads as if cancelled. An injected session stays open.
        """
        self._closed = True
        made = vars(self)
        if "_polling" in made:
            await self._polling.close()
        # A listener's own close is cancelled here with its upload, which needs the connections yet.
        if "_uploader" in made:
            await self._uploader.close()
        await finish(self._disconnect())

    async def _disconnect(self) -> None:
        await self._session.close()
        if "_storage" in vars(self):
            await self._storage.close()
        self._readers.shutdown(wait=False)
        self._writer.shutdown(wait=False)
        self._loader.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        # Half of it is the event loop's; the other half is a key.
        raise TypeError("a NunuClient cannot be copied or pickled; make another one")

    def __repr__(self) -> str:
        if (config := getattr(self, "_config", None)) is None:
            return "<NunuClient without settings>"  # in the locals of the error that refused them
        return f"<NunuClient base_url={config.base_url!r} project_id={config.project_id!r}>"


def _settings(
    *,
    api_key: str | None,
    project_id: str | None,
    base_url: str | None,
    allow_http: bool,
    path_style: PathStyle | None,
    state_dir: str | os.PathLike[str] | None,
    tls: ssl.SSLContext | None,
    trust_env: bool,
) -> tuple[Config, Proxies] | ConfigError:
    """Return the settings, or what is wrong with them; to be raised elsewhere.

    The frames where it was found hold the key, the environment and passwords of proxies.
    """
    try:
        config = Config.load(
            os.environ,
            api_key=api_key,
            project_id=project_id,
            base_url=base_url,
            allow_http=allow_http,
            path_style=path_style,
            state_dir=None if state_dir is None else os.fspath(state_dir),
        )
        if tls is None and not config.is_local:
            check_certificates(os.environ)
        return config, Proxies.load(os.environ) if trust_env else Proxies()
    except ConfigError as error:
        error.__context__ = None
        return error.with_traceback(None)


def _timeouts(value: float | Timeouts | None) -> Timeouts:
    if value is None:
        return Timeouts()
    if isinstance(value, Timeouts):
        return value
    return Timeouts(call=value)


def _user_agent() -> str:
    return f"nunu_async/{__version__} aiohttp/{aiohttp.__version__} python/{host.python_version()}"


@cache
def _load_everything() -> None:
    from nunu_async.preload import load_everything  # noqa: PLC0415 - most programs do without

    load_everything()


def _load_uploads() -> tuple[object, ...]:
    """Load what uploads need in one go: between two, the client may be closed."""
    return upload.Uploader, upload.upload_all
