"""`NunuClient`: creates, connects and closes the parts of the library."""

from __future__ import annotations

import asyncio
import os
import platform as host
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import NoReturn, Self, TypeVar, Unpack

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
from nunu_async.signatures import refuse_others
from nunu_async.upload.threads import DaemonThreadPool
from nunu_async.version import __version__

__all__ = ["NunuClient"]

T = TypeVar("T")
R = TypeVar("R")

# Reader threads per open file, in case its disk hangs; most of them are never started.
_THREADS_PER_FILE = 4


class NunuClient:
    """A client for the nunu.ai API.

    An async context manager. Use one client per event loop; any number of tasks can share it.

    Settings come from the arguments, then the environment (`NUNU_API_KEY`, then `NUNU_API_TOKEN`;
    `NUNU_PROJECT_ID`; `NUNU_BASE_URL`, then `NUNU_API_URL`), then the defaults.

    Args:
        api_key: sent in the `X-Api-Key` header, to the API only.
        project_id: sent with requests that take a project id.
        base_url: ``https://nunu.ai``, with or without ``/api`` or ``/api/v1``.
        timeout: seconds for one API call, all attempts included, or a `Timeouts` that sets every
            limit, stall limits included. Completing an upload has a separate limit there.
        retry: how often to retry, and how long to wait before each retry.
        session: an aiohttp session for API requests; the client never closes it. Its proxy is
            used, its middlewares are not. Requests with an upload id in the query use its
            connections, but no trace configs, neither its own nor those of other libraries.
            Requests to storage never use the session.
        ssl_context: for API and storage, if the system's certificates are not enough.
        api_concurrency: maximum number of concurrent API requests.
        storage_concurrency: maximum number of parts sent at once, over all uploads of this client.
        max_bandwidth: maximum bytes per second sent to storage, over all uploads of this client;
            at least 1024, or None for no limit.
        allow_http: permit plain http to hosts other than this machine.
        trust_env: read proxies from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`; loopback hosts are
            always reached directly. `.netrc` is never read.
        path_style: ``project`` for paths of the form ``/project/{projectId}/...``, ``key`` for the
            shorter ones; None uses ``project`` for organization keys (``nunu_org_...``) only.
        state_dir: directory for the journals of resumable uploads; None uses `NUNU_STATE_DIR`,
            then the system's state directory.
        on_attempt: a function called with an `Attempt` after each attempt of an API call or of a
            part, for metrics and traces. An `Attempt` holds no secret. An exception raised by the
            function is only logged.
        clock: the source of time, pauses and randomness; tests pass their own.

    Raises: ConfigError for invalid settings; nothing is sent.
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
        # Raised below, without its traceback: error trackers record the locals of each frame, and
        # the frames in which it was raised hold the key, the environment and proxy passwords.
        refused: ConfigError | None = None
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
            if ssl_context is None and not config.is_local:
                check_certificates(os.environ)
            proxies = Proxies.load(os.environ) if trust_env else Proxies()
        except ConfigError as error:
            error.__context__ = None
            refused = error.with_traceback(None)
        del api_key, base_url
        if refused is not None:
            raise refused
        problems = {
            "api_concurrency": check_at_once(api_concurrency),
            "storage_concurrency": check_at_once(storage_concurrency),
            "max_bandwidth": check_bandwidth(max_bandwidth),
        }
        for name, problem in problems.items():
            if problem:
                raise ConfigError(f"{name} {problem}")
        self._on_attempt = checked(on_attempt)
        agent = _user_agent()
        self._config = config
        self._clock = clock or SystemClock()
        self._policy = retry or RetryPolicy()
        self._timeouts = _timeouts(timeout)
        self._storage_concurrency = storage_concurrency
        self._max_bandwidth = max_bandwidth
        # A single thread, so that code which several tasks need at once is loaded only once.
        self._loader = DaemonThreadPool(1)
        self._session = Session(
            config=config,
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
        self._readers = DaemonThreadPool(
            _THREADS_PER_FILE * storage_concurrency + _THREADS_PER_FILE
        )
        self._writer = DaemonThreadPool(1)
        self._closed = False

    # Created on first access, which also loads the code: listing runs then loads no upload code,
    # and uploading loads no polling code.

    @cached_property
    def builds(self) -> endpoints.Builds:
        """The individual operations of build storage."""
        return endpoints.Builds(
            self._session, project_id=self._config.project_id, patience=self._timeouts.complete
        )

    @cached_property
    def runs(self) -> endpoints.Runs:
        """List, read, start and stop runs."""
        return endpoints.Runs(self._session)

    @cached_property
    def jobs(self) -> endpoints.Jobs:
        """List and read jobs; starting a run queues them."""
        return endpoints.Jobs(self._session)

    @cached_property
    def test_plan_executions(self) -> endpoints.TestPlanExecutions:
        """List executions of test plans."""
        return endpoints.TestPlanExecutions(self._session)

    @cached_property
    def _polling(self) -> polling.PollingService:
        return polling.PollingService(
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
    def _shelf(self) -> upload.JournalStore:
        return upload.JournalStore(
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
            upload.UploadContext(
                builds=self.builds,
                storage=self._storage,
                journals=self._shelf,
                clock=self._clock,
                policy=self._policy,
                timeouts=self._timeouts,
                concurrency=self._storage_concurrency,
                executor=self._readers,
                max_bandwidth=self._max_bandwidth,
                on_attempt=self._on_attempt,
            )
        )

    async def warm_up(self) -> None:
        """Load all code that this client may need, in another thread; nothing is sent.

        Otherwise, the first call, upload, list or wait in a process loads its code partly on the
        event loop, and blocks the loop for tens of milliseconds. Services that cannot accept this
        should await `warm_up` when they start. It may be called repeatedly and concurrently; the
        first call takes up to half a second, the others no time. If no thread can be started, the
        code is loaded on the event loop.

        Raises: NunuError if a module cannot be loaded; ClientClosed.
        """
        await self._load(_load_everything)
        self._check_open()

    async def _load(self, load: Callable[[], object]) -> None:
        """Load code in a thread, because loading takes too long for the event loop."""
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._loader, load)

    async def _load_uploader(self) -> None:
        """Load the upload code. Raises: ClientClosed."""
        # A submodule becomes an attribute of its package once it is fully imported.
        if "uploader" not in vars(upload):
            await self._load(lambda: upload.Uploader)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed; make a new one")

    async def _read(self, call: Callable[[T], R], argument: T) -> R:
        """Run `call` in a thread: it may use a disk. Raises: ClientClosed; what `call` raises."""
        self._check_open()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._readers, call, argument)
        self._check_open()
        return result

    async def _load_polling(self) -> None:
        """Load the polling code."""
        if "room" not in vars(polling):
            await self._load(lambda: polling.PollingService)

    @models.takes_build
    async def upload_build(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        on_progress: upload.Listener | None = None,
        **options: Unpack[models.BuildArguments],
    ) -> upload.UploadedBuild:
        """Upload a file to build storage.

        The file is streamed: memory use does not depend on its size. Up to `concurrency` parts are
        sent at once, within the client's `storage_concurrency`. When this raises or is cancelled,
        nothing is left running, and the server was asked to cancel the upload, unless the upload
        may already be complete.

        Args:
            path: a regular file, at least one byte long.
            name: 1 to 255 characters.
            platform: None infers it from the file's extension.
            description: at most 1000 characters.
            tags: 1 to 50 characters each.
            multipart: None requests a multipart upload above 128 MiB; the server decides.
            auto_delete: let the server delete old builds when storage is full.
            deletion_policy: which builds `auto_delete` deletes first.
            upload_timeout: minutes, 1 to 1440, after which the server drops the upload. None
                allows for 1 MiB/s, or for the upload's share of `max_bandwidth` if that is less
                (as if all uploads that may run at once were running), but at least the server's
                defaults: 10 for a single part, 60 for multipart; with `resume`, multipart gets
                1440.
            details: the origin of the build.
            concurrency: maximum number of concurrent parts of this file.
            verify: compare the MD5 of each part with its ETag, if the ETag is an MD5, and resend
                the part if they differ; the result's `verified` counts the parts that match.
            resume: keep a journal, and resume an unfinished upload of an earlier call with the same
                file, name, platform, description and tags: only missing parts are sent. After a
                failure or cancellation, the upload stays on the server, and the exception's notes
                say so, unless it cannot be resumed: the file has changed, or it has a single part.
            on_progress: a function or coroutine function, called with each `UploadEvent` in order;
                an exception it raises aborts the upload.

        Raises: SourceError and InputError before anything is sent, SourceError also for a file
            that is already being uploaded with `resume`; QuotaExceeded and the other
            ApiErrors; UploadError when a part fails; SourceChanged when the file changes
            during the upload; UploadOutcomeUnknown when the server did not confirm the outcome.
        """
        await self._load_uploader()
        file = upload.BuildFile(path=path, name=name, **options)
        return await self._uploader.upload(file, on_progress)

    @models.takes_build
    async def upload_builds(
        self,
        files: Iterable[str | os.PathLike[str] | upload.BuildFile],
        *,
        name: str | None = None,
        fail_fast: bool = False,
        on_progress: upload.FileListener | None = None,
        on_result: Callable[[upload.UploadResult], None] | None = None,
        **options: Unpack[models.BuildArguments],
    ) -> tuple[upload.UploadResult, ...]:
        """Upload several files to build storage; return a result for each, in the same order.

        All files share the client's `storage_concurrency`: at most that many files are open, and at
        most that many parts are sent at once. A failed upload does not stop the others. When this
        raises or is cancelled, nothing is left running, and each upload in progress was aborted as
        in `upload_build`.

        Args:
            files: paths, which use the settings of this call, and `BuildFile`s, which have their
                own settings.
            name: the name for every path; None uses each file's own name, with as many parent
                folders as needed to tell files of the same name apart (``arm64/app.apk``).
            fail_fast: raise the first failure, and abort the uploads in progress.
            on_progress: a function or coroutine function, called with each file and `UploadEvent`;
                an exception it raises aborts all uploads.
            on_result: a function, called with each result as it becomes available.

        The other settings are those of `upload_build`, and apply to every path.

        Raises: InputError before anything is sent, also for a file passed twice with the same name;
            SourceError for a relative path if the working directory no longer exists.
        """
        refuse_others(options, models.BuildArguments.__annotations__)
        await self._load_uploader()
        items = list(files)
        paths = [file for file in items if not isinstance(file, upload.BuildFile)]
        for path in paths:
            upload.check_path(path)
        # In a thread: on macOS this asks the volume whether it ignores case; it may hang.
        if name is None:
            names = iter(await self._read(upload.short_names, paths))
        else:
            names = iter([name] * len(paths))
        builds = [
            file
            if isinstance(file, upload.BuildFile)
            else upload.BuildFile(path=file, name=next(names), **options)
            for file in items
        ]
        await self._read(upload.check, builds)
        return await self._uploader.upload_all(
            builds, fail_fast=fail_fast, on_progress=on_progress, on_result=on_result
        )

    @polling.takes_wait
    async def wait_for_execution(
        self, execution_id: str, **options: Unpack[polling.WaitArguments[models.TestPlanExecution]]
    ) -> models.TestPlanExecution:
        """Wait until one execution has finished; see `wait_for_executions`."""
        await self._load_polling()
        rows = await self._polling.executions.many((execution_id,), polling.WaitOptions(**options))
        return rows[0]

    @polling.takes_wait
    async def wait_for_executions(
        self,
        execution_ids: Sequence[str],
        **options: Unpack[polling.WaitArguments[models.TestPlanExecution]],
    ) -> tuple[models.TestPlanExecution, ...]:
        """Wait until all of these test-plan executions finish; return them in the order of the ids.

        All execution waits of a client share one polling loop, which reads lists: ten thousand
        calls cost the server as much as one call with ten thousand ids, one page per hundred
        unfinished executions. A failed execution is returned like any other. An id that was in no
        list for 15 seconds (300 if it was seen before) raises `NotFound`, once the others have
        finished. Transient failures (network, 5xx, 429) only lengthen the pauses.

        Args:
            execution_ids: ids; duplicates are returned as often as they are passed.
            timeout: seconds for the whole wait; None for no limit.
            interval: seconds from the end of one poll to the start of the next, plus up to 10 %
                jitter; the first poll is immediate.
            on_change: a function or coroutine function, called with each `Change` of state that a
                poll found, the first state included; an exception it raises ends the wait.
            raise_on_failure: raise `RunFailed`, once all have finished, if any did not succeed.

        Raises: InputError before anything is sent; WaitTimeout, which holds the finished executions
            and the last state of the others; NotFound; RunFailed; AuthenticationError and
            PermissionDenied, which end every wait of the client; ClientClosed.
        """
        await self._load_polling()
        return await self._polling.executions.many(execution_ids, polling.WaitOptions(**options))

    @polling.takes_wait
    def executions_as_completed(
        self,
        execution_ids: Sequence[str],
        **options: Unpack[polling.WaitArguments[models.TestPlanExecution]],
    ) -> AsyncGenerator[models.TestPlanExecution, None]:
        """Yield each execution once, when it has finished; see `wait_for_executions`.

        Nothing is sent until iteration starts. `raise_on_failure` raises at the first failure.
        """
        return self._polling.executions.as_completed(execution_ids, polling.WaitOptions(**options))

    @polling.takes_wait
    async def wait_for_run(
        self, run_id: str, **options: Unpack[polling.WaitArguments[models.Run]]
    ) -> models.Run:
        """Wait until one run has finished; see `wait_for_runs`."""
        await self._load_polling()
        rows = await self._polling.runs.many((run_id,), polling.WaitOptions(**options))
        return rows[0]

    @polling.takes_wait
    async def wait_for_runs(
        self, run_ids: Sequence[str], **options: Unpack[polling.WaitArguments[models.Run]]
    ) -> tuple[models.Run, ...]:
        """Wait until all of these runs finish; return them in the order of the ids.

        Works like `wait_for_executions`. Takes run ids, not job ids. The steps of a run are
        returned by `nunu.runs.get`.
        """
        await self._load_polling()
        return await self._polling.runs.many(run_ids, polling.WaitOptions(**options))

    @polling.takes_wait
    def runs_as_completed(
        self, run_ids: Sequence[str], **options: Unpack[polling.WaitArguments[models.Run]]
    ) -> AsyncGenerator[models.Run, None]:
        """Yield each run once, when it has finished; see `wait_for_runs`.

        Nothing is sent until iteration starts. `raise_on_failure` raises at the first failure.
        """
        return self._polling.runs.as_completed(run_ids, polling.WaitOptions(**options))

    @polling.takes_wait
    async def wait_for_job(
        self, job_id: str, **options: Unpack[polling.WaitArguments[models.Job]]
    ) -> models.Job:
        """Wait until one job has finished; see `wait_for_jobs`."""
        await self._load_polling()
        rows = await self._polling.jobs.many((job_id,), polling.WaitOptions(**options))
        return rows[0]

    @polling.takes_wait
    async def wait_for_jobs(
        self, job_ids: Sequence[str], **options: Unpack[polling.WaitArguments[models.Job]]
    ) -> tuple[models.Job, ...]:
        """Wait until these jobs and their retries finish; return them in the order of the ids.

        Works like `wait_for_executions`. `nunu.runs.start` returns job ids; a job's runs are in
        `.runs`.
        """
        await self._load_polling()
        return await self._polling.jobs.many(job_ids, polling.WaitOptions(**options))

    @polling.takes_wait
    def jobs_as_completed(
        self, job_ids: Sequence[str], **options: Unpack[polling.WaitArguments[models.Job]]
    ) -> AsyncGenerator[models.Job, None]:
        """Yield each job once, when it has finished; see `wait_for_jobs`.

        Nothing is sent until iteration starts. `raise_on_failure` raises at the first failure.
        """
        return self._polling.jobs.as_completed(job_ids, polling.WaitOptions(**options))

    @models.takes_start
    async def run_and_wait(
        self,
        *,
        marker: bool = True,
        timeout: float | None = None,
        interval: float = polling.INTERVAL,
        on_start: polling.OnStart | None = None,
        on_change: polling.OnChange[models.Job] | None = None,
        raise_on_failure: bool = False,
        stop_on_cancel: bool = True,
        **what: Unpack[models.StartArguments],
    ) -> models.FinishedRun:
        """Start a test, a test plan or instructions, and wait until all of its jobs finish.

        Takes the arguments of `nunu.runs.start` and `wait_for_jobs`. `timeout` limits only the
        wait: the jobs continue after it. `on_start` is called with the `StartedRun` before the
        wait. If cancelled, the call first stops the jobs it started, unless `stop_on_cancel` is
        False.

        Raises: the errors of `nunu.runs.start` and `wait_for_jobs`.
        """
        await self._load_polling()
        terms = polling.WaitOptions(
            timeout=timeout,
            interval=interval,
            on_change=on_change,
            raise_on_failure=raise_on_failure,
        )
        start = self.runs.start(marker=marker, **what)
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
        """Send a request to any path of the API; return the decoded JSON, or None without a body.

        Uses the same key, limits, retries, errors and redaction as every call. GET and DELETE may
        be retried, any other method only if the server cannot have acted.

        Args:
            method: an HTTP method.
            path: below ``/api/v1``, with a leading slash, percent-encoded.
            params: the query; a list is joined with commas, as the API expects it.
            json: the body.

        Raises: InputError; ApiError; DecodeError; TransportError.
        """
        return await self._session.send(anything(method, path, params, json))

    async def close(self) -> None:
        """End all waits and uploads, then close all connections; may be called twice.

        The waits and uploads raise `ClientClosed`; uploads clean up as if cancelled. A session that
        was passed in stays open.
        """
        self._closed = True
        created = vars(self)
        if "_polling" in created:
            await self._polling.close()
        # If an upload's listener called `close`, this also cancels that call, because the upload
        # still needs the connections.
        if "_uploader" in created:
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

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        # A client is bound to an event loop, and holds a key.
        raise TypeError("a NunuClient cannot be copied or pickled; make another one")

    def __repr__(self) -> str:
        if (config := getattr(self, "_config", None)) is None:
            return "<NunuClient without settings>"  # shown by error trackers if `__init__` failed
        return f"<NunuClient base_url={config.base_url!r} project_id={config.project_id!r}>"


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
    from nunu_async.preload import load_everything  # noqa: PLC0415 - most programs do not need it

    load_everything()
