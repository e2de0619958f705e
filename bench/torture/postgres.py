"""A PostgreSQL to be broken: a private server that is restarted, or a database of its own on a given one."""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import asyncpg
from sqlalchemy import URL, make_url

from bench.torture.gateway import free_port

ACCOUNT = "postgres"  # whom the server runs as where we are root, which it refuses to run as
PACKAGED = "/usr/lib/postgresql"


class Postgres(Protocol):
    """`url` names an empty database."""

    url: str

    async def interrupt(self, seconds: float) -> None:
        """Ends all connections at once, and takes none for so long; one such call at a time."""


class PrivateServer:
    """Crashes, and recovers from its log."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._port = free_port()
        self._interrupting = asyncio.Lock()
        self.url = f"postgresql+asyncpg://{ACCOUNT}@127.0.0.1:{self._port}/postgres"

    async def _run(self, program: str, *arguments: str) -> None:
        other = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if os.geteuid() == 0 else {}
        process = await asyncio.create_subprocess_exec(
            self._programs / program, "-D", self._folder / "data", *arguments, cwd=self._folder,
            stdout=asyncio.subprocess.DEVNULL, **other,
        )  # fmt: skip
        if await process.wait():
            raise RuntimeError(f"{program} failed")

    async def create(self) -> None:
        await self._run("initdb", "--auth=trust", f"--username={ACCOUNT}", "--no-sync", "--encoding=UTF8")
        await self._start()

    async def _start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{self._folder}'"
        await self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    async def crash(self) -> None:
        await self._run("pg_ctl", "-m", "immediate", "stop")

    async def interrupt(self, seconds: float) -> None:
        async with self._interrupting:
            await self.crash()
            await asyncio.sleep(seconds)
            await self._start()


class GivenServer:
    """Somebody else's: only our database is cut off."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._name = f"dswbot_torture_{secrets.token_hex(6)}"
        self._interrupting = asyncio.Lock()
        self.url = server.set(database=self._name).render_as_string(hide_password=False)

    async def _run(self, *statements: str) -> None:
        plain = self._server.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(plain, timeout=5)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def create(self) -> None:
        await self._run(f"CREATE DATABASE {self._name}")

    async def drop(self) -> None:
        await self._run(f"DROP DATABASE {self._name} WITH (FORCE)")

    async def interrupt(self, seconds: float) -> None:
        async with self._interrupting:
            await self._run(
                f"ALTER DATABASE {self._name} WITH ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'",
            )
            await asyncio.sleep(seconds)
            await self._run(f"ALTER DATABASE {self._name} WITH ALLOW_CONNECTIONS true")


def programs() -> Path | None:
    """Where PostgreSQL's own programs are."""
    found = sorted(Path(PACKAGED).glob("*/bin/pg_ctl"))
    if found:
        return found[-1].parent
    on_path = shutil.which("pg_ctl")
    return Path(on_path).parent if on_path else None


@asynccontextmanager
async def opened(server: str = "") -> AsyncIterator[Postgres]:
    """A database on the given server; without one, on a server of our own."""
    if server:
        given = GivenServer(make_url(server))
        await given.create()
        try:
            yield given
        finally:
            await given.drop()
        return
    if (where := programs()) is None:
        raise RuntimeError("PostgreSQL's programs are not here: install them, or name a server")
    folder = Path(tempfile.mkdtemp(prefix="torture-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, ACCOUNT, ACCOUNT)
    private = PrivateServer(where, folder)
    try:
        await private.create()
        yield private
    finally:
        with contextlib.suppress(RuntimeError):
            await private.crash()
        shutil.rmtree(folder, ignore_errors=True)
