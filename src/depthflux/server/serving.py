"""The server's life: what is refused before it listens, start, drain, end.

    hold the data folder ─▶ listen ─▶ take over what an earlier server left ─▶ start workers
    SIGTERM or SIGINT ─▶ take nothing new ─▶ let what runs end, or requeue it ─▶ end

Knows the parts and their order; what each does is its own room's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from depthflux.errors import OutputError, SettingsError, show
from depthflux.files import make_folder
from depthflux.server.app import make_app
from depthflux.server.board import Board
from depthflux.server.crowd import Crowd, Patience, make_room
from depthflux.server.database import STORE_PROBLEMS, Database
from depthflux.server.errors import RefusedError
from depthflux.server.jobs import Jobs
from depthflux.server.keys import Keys
from depthflux.server.locks import hold_data_dir
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.service import Service
from depthflux.server.settings import ServerSettings
from depthflux.server.supervisor import COMMAND, Supervisor
from depthflux.server.webhooks import Post, Postman
from depthflux.server.wire import Connection, connections
from depthflux.settings import EngineSettings

logger = logging.getLogger("depthflux")

#: How often is looked for what is older than it is kept, in seconds.
AGEING_S = 3600.0
#: How many may wait in sync mode at a time under one of several keys.
MOST_WAITING_OF_ONE = 64
#: How long open connections may take to end after the last answer, in seconds.
_CLOSING_S = 5
#: Signals that say to end.
_ENDING = (signal.SIGTERM, signal.SIGINT)
#: Connections that wait to be accepted.
_BACKLOG = 512


class Listener(uvicorn.Server):
    """uvicorn without its own signals: ours drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def serve(
    settings: ServerSettings,
    engine_settings: EngineSettings,
    *,
    keys: Keys,
    target: str,
    given: Mapping[str, str | int | float | bool | None],
    on_listening: Callable[[str], None],
    command: Sequence[str] = COMMAND,
) -> None:
    """Serve until told to end by SIGTERM or SIGINT.

    Args:
        settings: the server's.
        engine_settings: how control images are read and where LoRAs lie.
        keys: who may ask.
        target: what the engine loads, see `depthflux.load`.
        given: single settings of the engine that were asked for.
        on_listening: called with the server's address once it listens.
        command: how a worker is started.

    Raises:
        SettingsError: the address needs API keys or cannot be listened on, or the data folder is
            in use.
        SetupError: the engine cannot be loaded.
    """
    _open_standard_streams()
    require_keys(settings, keys)
    data_dir = settings.data_dir.expanduser().absolute()
    _require_text(data_dir)
    settings = settings.model_copy(update={"data_dir": data_dir})
    with _private_files(), _own_folder(data_dir), _listen(settings) as listening:
        database = Database(data_dir)
        try:
            running = Running(settings, engine_settings, database, keys, target, given, command)
            _run(running.run(listening, on_listening))
        finally:
            database.close()


def end_process(code: int = 0) -> NoReturn:
    """End the process of a server that has ended, without waiting for its threads.

    One may still wait for a slow receiver of a webhook or for a store that is locked; both are
    looked after by the next server.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # Either may be closed, or nobody may read it any more.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Run to the end in a loop of its own; asyncio.run would wait for every thread."""
    loop = asyncio.new_event_loop()
    # After an error the process may still wait for a thread; then a signal ends it.
    told_again = signal.SIG_DFL
    try:
        loop.run_until_complete(serving)
        # Told once more it would end by the signal, and not with its exit code.
        told_again = signal.SIG_IGN
    finally:
        for number in _ENDING:
            signal.signal(number, told_again)
        loop.close()


def _open_standard_streams() -> None:
    """See that 0, 1 and 2 are streams: a file that took such a number would be written into."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. Workers are to have it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _require_text(data_dir: Path) -> None:
    try:
        str(data_dir).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"data_dir={show(str(data_dir))} has a name that is no UTF-8 text.",
            fix="Name another folder with --data-dir.",
        ) from None


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Meanwhile this process and its workers make files that other users cannot read.

    Whatever the folder lets them: it may have been there before, or be a container's volume.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _own_folder(data_dir: Path) -> Iterator[None]:
    """Make the data folder where it is not there, and hold it meanwhile."""
    _make_data_dir(data_dir)
    with hold_data_dir(data_dir):
        yield


def _make_data_dir(data_dir: Path) -> None:
    try:
        make_folder(data_dir.parent)
        with contextlib.suppress(OSError):
            # Others on this machine have no business with what people ask for.
            data_dir.mkdir(mode=0o700)
        make_folder(data_dir)
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or "no permission to write there"
        raise SettingsError(
            f"data_dir={data_dir} cannot be used: {reason}.",
            fix="Name another folder with --data-dir.",
        ) from error


def require_keys(settings: ServerSettings, keys: Keys) -> None:
    """See that nobody but programs of this machine is let in without a key.

    Raises:
        SettingsError: the address is no loopback one, and there are no keys.
    """
    if not settings.is_loopback and not len(keys):
        raise SettingsError(
            f"host={settings.host} lets other machines in, which needs API keys.",
            fix="Name a file of keys with --api-keys-file, or set DEPTHFLUX_API_KEYS; or listen on "
            "127.0.0.1.",
        )


class Running:
    """A server while it runs."""

    def __init__(
        self,
        settings: ServerSettings,
        engine_settings: EngineSettings,
        database: Database,
        keys: Keys,
        target: str,
        given: Mapping[str, Any],
        command: Sequence[str],
    ) -> None:
        self._patience = Patience(connections=make_room())
        board = _board(self._patience.connections, has_several_keys=len(keys) > 1)
        metrics, media = Metrics(), Media(settings.data_dir)
        media.remove_partial_uploads()
        self.service = Service(
            settings,
            engine_settings,
            database,
            media,
            board,
            metrics,
            has_several_keys=len(keys) > 1,
        )
        self._postman = Postman(
            self.service.outbox, metrics, Post(limits=self.service.limits), self.service.body_of
        )
        self._supervisor = Supervisor(
            settings,
            target,
            given,
            jobs=Jobs(database),
            board=board,
            metrics=metrics,
            on_ended=self._postman.ring,
            has_several_keys=len(keys) > 1,
            command=command,
        )
        self.service.supervisor = self._supervisor
        self.service.on_ended = self._postman.ring
        self._app = make_app(self.service, keys)
        self._settings = settings
        self._stop = asyncio.Event()

    async def run(self, listening: socket.socket, on_listening: Callable[[str], None]) -> None:
        """Serve until a signal, or until the engine refuses to load.

        Raises:
            RefusedError: the first worker could not load.
            SettingsError: a worker of an earlier server does not end.
        """
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            # Not asyncio's own handlers, between whose removal and the end of the process a signal
            # would do what it does by default.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))
        crowd = Crowd(self._patience)
        listener = Listener(_config(self._app, connections(crowd, self.service.metrics)))
        serving = asyncio.create_task(listener.serve(sockets=[listening]))
        starting = asyncio.create_task(self._start_workers())
        tasks = [
            serving,
            starting,
            asyncio.create_task(self._postman.run()),
            asyncio.create_task(self._age_for_ever()),
        ]
        try:
            on_listening(address_of(self._settings, listening))
            await self._until_told(tasks)
            starting.cancel()
            await self._drain()
            self.service.end_waiting()
        finally:
            listener.should_exit = True
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        _raise_what_ended(tasks)
        if self._supervisor.refused is not None:
            raise RefusedError(self._supervisor.refused.error)

    async def _start_workers(self) -> None:
        """Take over what an earlier server has left, then work, until the engine is refused."""
        await self._supervisor.take_over()
        await asyncio.to_thread(self.service.media.remove_partial_outputs)
        self._supervisor.start()
        await self._supervisor.is_over.wait()
        if self._supervisor.broken_by is not None:
            raise self._supervisor.broken_by

    async def _until_told(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait for a signal, or for the end of a task: none of them should end."""
        told = asyncio.create_task(self._stop.wait())
        await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()

    async def _drain(self) -> None:
        self.service.is_draining = True
        logger.info("draining: nothing new is taken")
        draining = asyncio.create_task(self._supervisor.drain(self._settings.drain_timeout_s))
        self._stop.clear()
        # A second signal does not wait for what runs.
        again = asyncio.create_task(self._stop.wait())
        await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            await self._supervisor.drain(0)
        await draining

    async def _age_for_ever(self) -> None:
        while True:
            try:
                count = await asyncio.to_thread(self.service.age)
                if count:
                    logger.info("%d predictions and uploads were older than they are kept", count)
            except (*STORE_PROBLEMS, OSError):
                logger.exception("what is old cannot be removed just now")
            await asyncio.sleep(AGEING_S)


def _board(connections: int, *, has_several_keys: bool) -> Board:
    """One that leaves half of all connections to those who do not wait for an end."""
    most = connections // 2
    return Board(most, min(MOST_WAITING_OF_ONE, most // 2) if has_several_keys else most)


def _raise_what_ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise the first error that a task has ended with: the process must not exit with 0."""
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def address_of(settings: ServerSettings, listening: socket.socket) -> str:
    """Where the server is reached, such as `http://127.0.0.1:8000`."""
    host, port = listening.getsockname()[:2]
    shown = settings.host if settings.host == "localhost" else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


@contextlib.contextmanager
def _listen(settings: ServerSettings) -> Iterator[socket.socket]:
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its number: asyncio turns Nagle's algorithm off only where a socket says that it is TCP's,
    # and with it every answer would wait 40 ms for the client's acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, settings.port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}.",
                fix="Name another with --port.",
            ) from error
        listening.listen(_BACKLOG)
        yield listening


def _config(app: FastAPI, connection: type[Connection]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        # Addresses hold secrets, and counters say what an access log would.
        access_log=False,
        log_config=None,
        # A proxy is told of by public_url; whoever sends its headers is not believed.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_S,
        backlog=_BACKLOG,
    )
