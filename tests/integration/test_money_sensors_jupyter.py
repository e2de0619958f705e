"""The kernels' sensor against a Jupyter server over a socket."""

import os
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from bot.money.sensors import look_all
from bot.money.sensors.jupyter import Kernels
from bot.money.sensors.jupyter_runtime import running_servers, runtime_dirs
from tests.fakes.jupyter import FakeJupyter, FakeKernel

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
PID = os.getpid()


@pytest.fixture
async def jupyter() -> AsyncIterator[FakeJupyter]:
    async with FakeJupyter() as running:
        yield running


async def test_without_a_server_there_is_no_signal(tmp_path: Path):
    assert await Kernels([tmp_path, tmp_path / "missing"]).look(AT) is None


async def test_a_busy_kernel_is_use_and_its_notebook_is_named(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.kernels = [FakeKernel("a"), FakeKernel("b", "busy", AT - timedelta(hours=5), "runs/train.ipynb")]
    jupyter.write(tmp_path, PID)
    sensor = Kernels([tmp_path])
    seen = await sensor.look(AT)
    assert (seen.busy, seen.last_used) == (True, AT)
    assert seen.reason == "runs/train.ipynb is running"
    jupyter.kernels[1].state = "idle"
    later = await sensor.look(AT + timedelta(minutes=1))
    assert (later.busy, later.last_used) == (False, AT + timedelta(minutes=1))  # kernel a is newer than the clock here


async def test_idle_kernels_tell_when_they_last_worked(jupyter: FakeJupyter, tmp_path: Path):
    worked = AT - timedelta(minutes=40)
    jupyter.kernels = [FakeKernel("a", "idle", worked), FakeKernel("b", "starting", worked - timedelta(hours=1))]
    jupyter.write(tmp_path, PID)
    seen = await Kernels([tmp_path]).look(AT)
    assert (seen.busy, seen.last_used) == (False, worked)
    assert seen.reason == "no Jupyter kernel computes (2 idle)"


async def test_a_server_without_kernels_is_idle(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.write(tmp_path, PID)
    seen = await Kernels([tmp_path]).look(AT)
    assert (seen.busy, seen.last_used, seen.reason) == (False, None, "no Jupyter kernel runs")


async def test_asking_is_no_use(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.kernels = [FakeKernel("a", "busy", notebook="a.ipynb")]
    jupyter.write(tmp_path, PID)
    await Kernels([tmp_path]).look(AT)
    assert len(jupyter.asked) == 2  # the kernels, and the notebook's name
    assert jupyter.api_activity is None
    async with aiohttp.ClientSession(headers={"Authorization": f"token {jupyter.token}"}) as session:
        await session.get(f"http://127.0.0.1:{jupyter.port}{jupyter.base_url}api/kernels")
    assert jupyter.api_activity is not None  # as the real one counts it


@pytest.mark.parametrize(
    ("fault", "value", "says"),
    [
        ("status", 500, "it answers 500"),
        ("status", 302, "it wants a password or another token"),
        ("body", b"<html>", "its answer makes no sense"),
        ("body", b'{"kernels": []}', "its answer makes no sense"),
        ("body", b'[{"id": "a", "last_activity": "yesterday"}]', "its answer makes no sense"),
        ("body", b'[{"id": "a"}]', "does not know what a kernel does"),
    ],
)
async def test_a_server_that_does_not_tell_is_unknown(
    jupyter: FakeJupyter, tmp_path: Path, fault: str, value: object, says: str
):
    setattr(jupyter.faults, fault, value)
    jupyter.write(tmp_path, PID)
    seen = await Kernels([tmp_path]).look(AT)
    assert seen.busy is None
    assert says in seen.reason
    assert jupyter.token not in seen.reason


async def test_a_wrong_token_is_unknown_and_tells_so(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.write(tmp_path, PID, token="old")
    seen = await Kernels([tmp_path]).look(AT)
    assert seen.busy is None
    assert "403: it wants a password or another token" in seen.reason


async def test_a_server_that_hangs_is_unknown_in_time(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.faults.hangs = True
    jupyter.write(tmp_path, PID)
    (seen,) = await look_all([Kernels([tmp_path])], AT, patience=0.2)
    assert (seen.name, seen.busy, seen.reason) == ("kernels", None, "kernels: no answer within 0.2 s")


async def test_one_that_computes_outweighs_one_that_does_not_tell(jupyter: FakeJupyter, tmp_path: Path):
    async with FakeJupyter(kernels=[FakeKernel("a", "busy")]) as other:
        jupyter.faults.status = 503
        jupyter.write(tmp_path / "one", PID)
        other.write(tmp_path / "two", PID)
        seen = await Kernels([tmp_path / "one", tmp_path / "two"]).look(AT)
    assert (seen.busy, seen.reason) == (True, "a Jupyter kernel is running")


async def test_a_server_that_is_gone_is_no_server(jupyter: FakeJupyter, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for host in ("localhost", "127.0.0.1", "0.0.0.0", "*", ""):
            jupyter.write(tmp_path, PID, port=taken.getsockname()[1], hostname=host)
            assert await Kernels([tmp_path]).look(AT) is None
    jupyter.write(tmp_path, PID, sock=str(tmp_path / "gone.sock"))
    assert await Kernels([tmp_path]).look(AT) is None


async def test_of_two_files_for_one_port_the_newer_counts(jupyter: FakeJupyter, tmp_path: Path):
    stale = jupyter.write(tmp_path, PID, token="old").rename(tmp_path / "jpserver-1.json")
    current = jupyter.write(tmp_path, PID)
    written = stale.stat().st_mtime
    os.utime(current, (written + 1, written + 1))
    assert [server.token for server in running_servers([tmp_path])] == [jupyter.token]
    assert (await Kernels([tmp_path]).look(AT)).busy is False


async def test_a_file_whose_process_is_dead_or_another_is_passed_over(jupyter: FakeJupyter, tmp_path: Path):
    jupyter.write(tmp_path, 2**22 + 1)
    assert running_servers([tmp_path]) == []
    os.utime(jupyter.write(tmp_path, PID), (1_000_000_000,) * 2)  # long before this process began
    assert running_servers([tmp_path]) == []


async def test_files_that_make_no_sense_are_passed_over(tmp_path: Path):
    (tmp_path / "jpserver-1.json").write_text('{"pid":')
    (tmp_path / "nbserver-2.json").write_bytes(b"\xff\xfe")
    (tmp_path / "jpserver-3.json").mkdir()
    assert running_servers([tmp_path]) == []


def test_runtime_files_are_looked_for_where_jupyter_leaves_them(tmp_path: Path):
    default = tmp_path / ".local/share/jupyter/runtime"
    assert runtime_dirs({}, tmp_path) == (default,)
    named = {"JUPYTER_RUNTIME_DIR": "/run/j", "JUPYTER_DATA_DIR": "/data", "XDG_DATA_HOME": str(default.parents[1])}
    assert runtime_dirs(named, tmp_path) == (Path("/run/j"), Path("/data/runtime"), default)
