"""`NunuClient`: wires the rooms and owns their lifetime."""

from __future__ import annotations

import os
import platform as host
import ssl
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self

import aiohttp

from nunu_async.config import Config, PathStyle, Timeouts
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.core.retry import RetryPolicy
from nunu_async.core.session import Session
from nunu_async.endpoints.anything import anything
from nunu_async.endpoints.builds import Builds
from nunu_async.endpoints.runs import Runs
from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
from nunu_async.errors import ConfigError
from nunu_async.models.builds import BuildDetails, DeletionPolicy, Platform
from nunu_async.upload.pipeline import UploadedBuild, Uploader, UploadJob
from nunu_async.upload.progress import Listener
from nunu_async.upload.readers import Readers
from nunu_async.upload.storage import Storage

__all__ = ["NunuClient"]

_READERS = 4


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
            middlewares are not run. Storage never uses it.
        ssl_context: for both API and storage, where the system's certificates are not enough.
        api_concurrency: API requests under way at once.
        storage_concurrency: parts under way at once, over all uploads of this client.
        allow_http: permit plain http to hosts other than this machine.
        path_style: ``project`` for paths of the form ``/project/{projectId}/...``; None takes them
            for organization keys (``nunu_org_...``), and the shorter ones for project keys.
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
        allow_http: bool = False,
        path_style: PathStyle | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, limit in (
            ("api_concurrency", api_concurrency),
            ("storage_concurrency", storage_concurrency),
        ):
            if type(limit) is not int or limit < 1:
                raise ConfigError(f"{name} must be a whole number, at least 1, not {limit!r}")
        config = Config.load(
            os.environ,
            api_key=api_key,
            project_id=project_id,
            base_url=base_url,
            allow_http=allow_http,
            path_style=path_style,
        )
        timeouts = _timeouts(timeout)
        clock = clock or SystemClock()
        policy = retry or RetryPolicy()
        agent = _user_agent()
        self._config = config
        self._session = Session(
            config,
            clock=clock,
            policy=policy,
            timeouts=timeouts,
            concurrency=api_concurrency,
            user_agent=agent,
            http=session,
            tls=ssl_context,
        )
        self._storage = Storage(
            clock=clock,
            timeouts=timeouts,
            concurrency=storage_concurrency,
            user_agent=agent,
            allow_http=allow_http,
            allow_loopback=config.is_local,
            tls=ssl_context,
        )
        self._readers = Readers(_READERS)
        self.builds = Builds(
            self._session, project_id=config.project_id, patience=timeouts.complete
        )
        self.runs = Runs(self._session)
        self.test_plan_executions = TestPlanExecutions(self._session)
        self._uploader = Uploader(
            self.builds,
            self._storage,
            clock=clock,
            policy=policy,
            timeouts=timeouts,
            concurrency=storage_concurrency,
            executor=self._readers,
        )

    async def upload_build(  # noqa: PLR0913 - the documented fields of an upload
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        platform: Platform | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        multipart: bool | None = None,
        auto_delete: bool = False,
        deletion_policy: DeletionPolicy | None = None,
        upload_timeout: int | None = None,
        details: BuildDetails | None = None,
        concurrency: int = 4,
        on_progress: Listener | None = None,
    ) -> UploadedBuild:
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
            upload_timeout: minutes, 1 to 1440, after which the server forgets the upload.
            details: where the build comes from.
            concurrency: parts of this file under way at once.
            on_progress: a function or coroutine function, told each `UploadEvent` in order;
                what it raises ends the upload.

        Raises: SourceError and InputError before anything is sent; QuotaExceeded and the other
            ApiErrors; UploadError when a part does not go up; SourceChanged when the file
            changes meanwhile; UploadOutcomeUnknown when the server would not say.
        """
        job = UploadJob(
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
        )
        return await self._uploader.upload(job, on_progress)

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
        """End uploads that are under way, then every connection; may be called twice.

        Uploads end as if cancelled, with a `ClientClosed` error. An injected session stays open.
        """
        await self._uploader.close()
        await self._session.close()
        await self._storage.close()
        self._readers.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        project = self._config.project_id
        return f"<NunuClient base_url={self._config.base_url!r} project_id={project!r}>"


def _timeouts(value: float | Timeouts | None) -> Timeouts:
    if value is None:
        return Timeouts()
    if isinstance(value, Timeouts):
        return value
    return Timeouts(call=value)


def _user_agent() -> str:
    try:
        ours = version("nunu_async")
    except PackageNotFoundError:
        ours = "0"
    return f"nunu_async/{ours} aiohttp/{aiohttp.__version__} python/{host.python_version()}"
