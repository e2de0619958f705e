"""Who is logged in, and when something last happened in their terminals."""

import pwd
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bot.money.evidence import Signal
from bot.money.sensors.aside import Aside
from bot.money.sensors.memory import LastUse
from bot.money.sensors.procfs import PROC, Process, lines_of_this_process, processes

DEV = Path("/dev")
UTMP = (Path("/run/utmp"), Path("/var/run/utmp"))
PATIENCE = timedelta(hours=1)

RECORD = struct.Struct("<hxxi32s4s32s256shhiii4i20x")  # struct utmp of glibc on x86
USER_PROCESS = 7
MULTIPLEXERS = ("tmux", "screen")


@dataclass(frozen=True, slots=True)
class Login:
    """A terminal that somebody has open. `line`: as `pts/3`. `used`: when it last typed or printed something."""

    line: str
    user: str
    kind: str
    used: datetime


def utmp_users(path: Path) -> dict[str, str]:
    """Who is on which terminal. Raises OSError."""
    raw = path.read_bytes()
    records = RECORD.iter_unpack(raw[: len(raw) - len(raw) % RECORD.size])
    return {_string(record[2]): _string(record[4]) for record in records if record[0] == USER_PROCESS}


def _string(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", errors="replace")


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _over_ssh(line: str, by_pid: dict[int, Process]) -> bool:
    """Whether an ancestor of a terminal's processes is an SSH server."""
    for process in [process for process in by_pid.values() if process.line == line]:
        seen: Process | None = process
        for _ in range(len(by_pid)):  # while it was read, a parent may have changed
            if seen is None or seen.name.startswith("sshd"):
                break
            seen = by_pid.get(seen.parent)
        if seen:
            return seen.name.startswith("sshd")
    return False


class Logins:
    """Whether somebody works in a terminal.

    An open one counts for `patience` after something was last typed or printed there. What it runs unseen is for the
    processor's sensor to notice.
    """

    name = "logins"

    def __init__(self, *, patience: timedelta = PATIENCE, proc: Path = PROC, dev: Path = DEV,
                 utmp: tuple[Path, ...] = UTMP) -> None:  # fmt: skip
        self._patience = patience
        self._proc = proc
        self._dev = dev
        self._utmp = utmp
        self._aside = Aside("logins")
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        """Raises OSError where terminals can't be looked at."""
        logins = await self._aside.run(self.logins)
        newest = max(logins, key=lambda login: login.used, default=None)
        last_used = self._last_use.seen(at, newest.used if newest else None)
        if newest is None:
            return Signal(self.name, False, "nobody is logged in", at, last_used)
        idle = max(at - newest.used, timedelta())
        more = f", and {len(logins) - 1} more" if len(logins) > 1 else ""
        reason = f"{newest.kind} idle {_span(idle)} ({newest.user} on {newest.line}{more})"
        return Signal(self.name, idle < self._patience, reason, at, last_used)

    def logins(self) -> list[Login]:
        """Every terminal that is open. Raises OSError."""
        users = self._users()
        by_pid = {process.pid: process for process in processes(self._proc)}
        ours = lines_of_this_process(self._proc)
        lines = sorted({*self._pseudo_terminals(known=bool(users)), *users})
        found = (self._login(line, users.get(line), by_pid, ours) for line in lines)
        return [login for login in found if login]

    def _users(self) -> dict[str, str]:
        for path in self._utmp:
            try:
                return utmp_users(path)
            except OSError:  # containers have none
                continue
        return {}

    def _pseudo_terminals(self, *, known: bool) -> Iterator[str]:
        """`known`: somebody is known to be logged in without them."""
        try:
            names = [path.name for path in (self._dev / "pts").iterdir()]
        except OSError:
            if known:
                return
            raise
        yield from (f"pts/{name}" for name in names if name.isdigit())

    def _login(self, line: str, user: str | None, by_pid: dict[int, Process], ours: frozenset[str]) -> Login | None:
        try:
            stat = (self._dev / line).stat()
        except FileNotFoundError:  # closed meanwhile, or left behind in utmp
            return None
        # What this service logs is no use, and what a multiplexer shows is noted where that runs.
        shows_others = any(
            process.line == line and process.in_front and process.name.startswith(MULTIPLEXERS)
            for process in by_pid.values()
        )
        used = stat.st_atime if line in ours or shows_others else max(stat.st_atime, stat.st_mtime)
        kind = "ssh session" if _over_ssh(line, by_pid) else "terminal"
        return Login(line, user or _owner(stat.st_uid), kind, datetime.fromtimestamp(used, UTC))


def _span(idle: timedelta) -> str:
    hours, rest = divmod(int(idle.total_seconds()), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"
