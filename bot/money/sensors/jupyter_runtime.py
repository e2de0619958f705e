"""Which Jupyter servers run here, from the files that each writes when it starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bot.money.sensors.procfs import PROC, booted_at, process

WILDCARDS = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
WRITTEN_AFTER = 5.0  # seconds that the clock may be off between a process's start and its file's time


class RuntimeFile(msgspec.Struct, frozen=True):
    """`jpserver-PID.json`, or `nbserver-PID.json` of older ones."""

    pid: int
    port: int = 0
    base_url: str = "/"
    hostname: str = "localhost"
    secure: bool = False
    token: str = ""
    sock: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a Jupyter server listens: at `url`, through the Unix socket `sock` where it is set."""

    url: str
    token: str = field(repr=False)
    sock: str

    @property
    def label(self) -> str:
        return f"Jupyter at {self.sock or self.url}"


def runtime_dirs(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where Jupyter servers of this user may have left their files."""
    named = [environ["JUPYTER_RUNTIME_DIR"]] if environ.get("JUPYTER_RUNTIME_DIR") else []
    data = [environ[name] for name in ("JUPYTER_DATA_DIR",) if environ.get(name)]
    data += [f"{environ['XDG_DATA_HOME']}/jupyter"] if environ.get("XDG_DATA_HOME") else []
    data.append(str(home / ".local/share/jupyter"))
    return tuple(dict.fromkeys(Path(path) for path in (*named, *(f"{one}/runtime" for one in data))))


def running_servers(folders: Sequence[Path], proc: Path = PROC) -> list[Server]:
    """The servers whose process lives; one for each address, for a server that was killed leaves its file behind."""
    newest: dict[tuple[int, str], Server] = {}
    for path, _ in sorted(_files(folders), key=lambda found: found[1]):
        if (told := _told(path)) and _lives(told.pid, path, proc):
            newest[told.port, told.sock] = _server(told)
    return list(newest.values())


def _files(folders: Sequence[Path]) -> Iterator[tuple[Path, float]]:
    for folder in folders:
        for pattern in ("jpserver-*.json", "nbserver-*.json"):
            for path in folder.glob(pattern):
                try:
                    yield path, path.stat().st_mtime
                except OSError:  # gone meanwhile
                    continue


def _told(path: Path) -> RuntimeFile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RuntimeFile)
    except (OSError, msgspec.DecodeError):  # gone, another user's, or not written to its end yet
        return None


def _lives(pid: int, written: Path, proc: Path) -> bool:
    """Whether the process that wrote the file lives. Numbers come back: one that began later is another."""
    found, booted = process(pid, proc), booted_at(proc)
    if found is None:
        return False
    try:
        return booted is None or booted + found.started <= written.stat().st_mtime + WRITTEN_AFTER
    except OSError:
        return False


def _server(told: RuntimeFile) -> Server:
    host = WILDCARDS.get(told.hostname, told.hostname)
    host = f"[{host}]" if ":" in host else host
    base = told.base_url.strip("/")
    root = "http://localhost" if told.sock else f"{'https' if told.secure else 'http'}://{host}:{told.port}"
    return Server(f"{root}/{base}/" if base else f"{root}/", told.token, told.sock)
