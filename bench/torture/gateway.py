"""The service as a process that is started, watched, broken and started again."""

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from bench.torture.history import Life
from tests.service import ROOT, clean_environment

VICTIM = ("-m", "bench.torture.victim", "serve")
SHUTDOWN = 10.0  # seconds: server.shutdown_timeout
STARTUP = 90.0  # seconds after which a start has failed
LAST_WORDS = 0.5  # seconds that the output of a dead process may take to arrive
FULL = 4096  # bytes: no file of a process with this limit grows beyond them


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Gateway:
    """One data directory with at most one process at a time."""

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        self.name = name
        self.data = folder / name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lives: list[Life] = []
        self.log = folder / f"{name}.log"
        self.ready = asyncio.Event()
        self._folder = folder
        self.env = clean_environment(
            DSWBOT_DATA_DIR=str(self.data), DSWBOT_SERVER__PORT=str(self.port), PYTHONPATH=str(ROOT),
            TMPDIR=str(folder), **settings,
        )  # fmt: skip
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # a start that compiles everything again is not what is measured
        self.polls = "DSWBOT_TELEGRAM__TOKEN" in settings
        self.database_url = settings.get("DSWBOT_DATABASE__URL", f"sqlite+aiosqlite:///{self.data / 'dswbot.db'}")
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._readings: set[asyncio.Task[None]] = set()

    @property
    def life(self) -> Life:
        """The current process's, or the last one's."""
        return self.lives[-1]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    async def start(self, failpoint: str = "") -> None:
        """Starts a process; returns at once."""
        self.ready.clear()
        output, end = os.pipe()  # not asyncio's own: it would wait for the model's process, which has it too
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *VICTIM, env=self.env | ({"TORTURE_FAILPOINT": failpoint} if failpoint else {}),
                cwd=self._folder, stdout=end, stderr=end,
            )  # fmt: skip
        finally:
            os.close(end)
        self.lives.append(Life(self.name, time.time()))
        self._watching = asyncio.create_task(
            self._watch(self._process, self.life, output), name=f"watch over {self.name}"
        )

    async def _watch(self, process: asyncio.subprocess.Process, life: Life, output: int) -> None:
        """Until the process has ended."""
        reading = asyncio.create_task(self._read(output, life), name=f"output of {self.name}")
        self._readings.add(reading)
        reading.add_done_callback(self._readings.discard)
        life.code = await process.wait()
        life.ended = time.time()
        await asyncio.wait({reading}, timeout=LAST_WORDS)
        self.ready.set()  # nobody waits for the dead

    async def _read(self, output: int, life: Life) -> None:
        reader = asyncio.StreamReader(limit=2**20)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb")
        )
        with self.log.open("ab") as log, contextlib.closing(pipe):
            log.write(f"--- {self.name}, life {len(self.lives)} at {life.started:.3f}\n".encode())
            async for line in reader:
                log.write(line)
                self._heed(line.decode(errors="replace"), life)

    def _heed(self, line: str, life: Life) -> None:
        if "dswbot is ready on" in line:
            life.ready = time.time()
            self.ready.set()
        elif found := re.match(r"torture: model ([0-9.]+)", line):
            if life.model_seconds:
                life.reloads.append((time.time(), float(found[1])))
            else:
                life.model_seconds = float(found[1])
        elif found := re.match(r"torture: died at (.+)", line):
            life.how, life.reached = f"failpoint {found[1]}", found[1]

    async def until_ready(self, seconds: float = STARTUP) -> bool:
        """Waits for the process to be ready; False where it died before."""
        await asyncio.wait_for(self.ready.wait(), seconds)
        return self.alive and self.life.ready is not None

    async def ended(self, seconds: float) -> bool:
        """Waits for the process to end by itself."""
        assert self._watching
        await asyncio.wait({self._watching}, timeout=seconds)
        return self._watching.done()

    def _signal(self, number: int) -> None:
        if self._process and self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, unless it has died already."""
        if self.alive and not self.life.how:
            self.life.how = "kill"
        self._signal(signal.SIGKILL)
        await self.ended(10)

    async def terminate(self) -> None:
        """SIGTERM; one that does not heed it is killed, and its life shows it."""
        began = time.time()
        if self.alive and not self.life.how:
            self.life.how = "SIGTERM"
        self._signal(signal.SIGTERM)
        if not await self.ended(2 * SHUTDOWN):
            self._signal(signal.SIGKILL)
            await self.ended(10)
        self.life.stop_seconds = time.time() - began

    @property
    def worker(self) -> int:
        """The model's process; 0 where there is none."""
        try:
            return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            return 0

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    def fill_disk(self, *, pages: bool) -> None:
        """No room from now on: for any file of the process, or for new pages of its database alone."""
        if pages:
            self._signal(signal.SIGUSR1)
        else:
            self._limit_files(FULL)

    def empty_disk(self) -> None:
        self._signal(signal.SIGUSR2)
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size: int) -> None:
        """Its children have the limit, too, where they began while it held."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    async def command(self, *arguments: str) -> str:
        """A command of the product's on this data directory."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", *arguments, env=self.env, cwd=self._folder, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"dswbot {' '.join(arguments)} failed")
        return out.decode()

    def tail(self, lines: int = 25) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
