"""Starts the servers to compare, each with the same model and room, waits until it answers, and stops it.

llama-server is $LLAMA_SERVER or on the PATH. xllamacpp and what llama_cpp.server needs beside llama_cpp may be
installed for another interpreter: $OTHERS_PYTHON.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
OTHERS_PYTHON = os.environ.get("OTHERS_PYTHON", sys.executable)
START = 180.0  # seconds until a server must answer
LAST_LINES = 20
NOTHING: Mapping[str, str] = {}
LLAMA_CPP_SERVER_NEEDS = ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
XLLAMACPP = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.port = map(int, sys.argv[2:])
params.cpuparams_batch.n_threads = params.cpuparams.n_threads
params.kv_unified, params.n_gpu_layers = True, 999
server = xllamacpp.Server(params)
signal.pause()
"""


class ServerFailed(Exception):
    """A server did not come up; its last words follow."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What every server is started with. `context`: tokens a conversation."""

    model: Path
    context: int
    slots: int
    threads: int


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `unending`: the fields that make it generate on after the end of an answer."""

    url: str
    model: str
    pids: Mapping[str, int]
    headers: Mapping[str, str]
    unending: Mapping[str, object]


Start = Callable[[Shape], AbstractContextManager[Running]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(**settings: str) -> dict[str, str]:
    """Without the settings of whoever runs this, and with these."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DSWBOT_") and "proxy" not in k.lower()}
    return {**kept, **settings}


def _get(url: str, headers: Mapping[str, str]) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=5) as response:
        return response.read()


def _await_ready(process: subprocess.Popen[bytes], url: str, headers: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # not listening yet, or 503 while the model loads
            _get(url, headers)
            return
        time.sleep(0.1)
    last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    raise ServerFailed("\n".join([f"{url} does not answer:", *last]))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    url: str,
    ready: str,
    *,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] = NOTHING,
    unending: Mapping[str, object] = NOTHING,
) -> Iterator[Running]:
    """Runs a command until the block ends; gives the server once `ready` answers."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env or _environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _await_ready(process, url + ready, headers, log)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pids = {"server": process.pid} | {f"its child {n}": int(pid) for n, pid in enumerate(children, 1)}
        model = json.loads(_get(f"{url}/v1/models", headers))["data"][0]["id"]
        yield Running(url, model, pids, headers, unending)
    finally:
        _stop(process)


@contextmanager
def _place() -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder), _free_port()


@contextmanager
def dswbot(shape: Shape) -> Iterator[Running]:
    """`dswbot serve` with a data directory and a key of its own."""
    installed = Path(sys.executable).parent / "dswbot"
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "bot"]
    with _place() as (folder, port):
        env = _environment(
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            DSWBOT_SERVER__PORT=str(port),
            DSWBOT_DATA_DIR=str(folder / "data"),
            DSWBOT_MODEL__PATH=str(shape.model),
            DSWBOT_MODEL__CONTEXT=str(shape.context),
            DSWBOT_MODEL__SLOTS=str(shape.slots),
            DSWBOT_MODEL__THREADS=str(shape.threads),
        )
        new_key = [*command, "key", "new", "bench", "--scope", "chat"]
        told = subprocess.run(new_key, cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=60)
        headers = {"Authorization": f"Bearer {told.stdout.splitlines()[-1]}"}
        url = f"http://127.0.0.1:{port}"
        with _running([*command, "serve"], folder, url, "/readyz", env=env, headers=headers) as server:
            yield server


@contextmanager
def llama_server(shape: Shape, options: Sequence[str] = ()) -> Iterator[Running]:
    """llama.cpp's own server; its context is for all slots together."""
    binary = _llama_server()
    if not binary:
        raise ServerFailed("There is no llama-server: put it on the PATH or name it in LLAMA_SERVER.")
    with _place() as (folder, port):
        command = [
            str(binary), "-m", str(shape.model), "-c", str(shape.context * shape.slots), "-kvu",
            "-np", str(shape.slots), "-t", str(shape.threads), "-ngl", "999", "--no-webui",
            "--host", "127.0.0.1", "--port", str(port), *options,
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with _running(command, folder, url, "/health", unending={"ignore_eos": True}) as server:
            yield server


@contextmanager
def llama_cpp_server(shape: Shape) -> Iterator[Running]:
    """llama-cpp-python's server: one answer at a time, each to its end."""
    with _place() as (folder, port):
        command = [
            OTHERS_PYTHON, "-m", "llama_cpp.server", "--model", str(shape.model), "--n_ctx", str(shape.context),
            "--n_threads", str(shape.threads), "--n_threads_batch", str(shape.threads), "--n_gpu_layers", "-1",
            "--flash_attn", "true", "--interrupt_requests", "false", "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        with _running(command, folder, f"http://127.0.0.1:{port}", "/v1/models") as server:
            yield server


@contextmanager
def xllamacpp(shape: Shape) -> Iterator[Running]:
    """The llama.cpp server that xllamacpp runs inside Python."""
    with _place() as (folder, port):
        numbers = (shape.context * shape.slots, shape.slots, shape.threads, port)
        command = [OTHERS_PYTHON, "-c", XLLAMACPP, str(shape.model), *map(str, numbers)]
        url = f"http://127.0.0.1:{port}"
        with _running(command, folder, url, "/health", unending={"ignore_eos": True}) as server:
            yield server


SERVERS: dict[str, Start] = {
    "dswbot": dswbot,
    "llama-server": llama_server,
    "llama-server-bs": partial(llama_server, options=["-bs"]),
    "llama_cpp.server": llama_cpp_server,
    "xllamacpp": xllamacpp,
}


def _llama_server() -> Path | None:
    found = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    return Path(found).absolute() if found and Path(found).exists() else None


def _importable(*modules: str) -> bool:
    code = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    return subprocess.run([OTHERS_PYTHON, "-c", code, *modules], check=False).returncode == 0


def available() -> list[str]:
    """The servers that can be run here; GPU sampling is tried only where it is asked for by name."""
    others = [("llama_cpp.server", LLAMA_CPP_SERVER_NEEDS), ("xllamacpp", ("xllamacpp",))]
    names = ["dswbot", "llama-server"] if _llama_server() else ["dswbot"]
    return names + [name for name, modules in others if _importable(*modules)]
