"""The stop command: what it is given, and how its failures are told."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from bot.clock import now
from bot.money.instance import CallFailed, Cloud, Culler, View
from bot.money.stop_command import StopCommand


def shell(script: str, *, limit: float = 10) -> StopCommand:
    return StopCommand(["/bin/sh", "-c", script], "home", limit=limit)


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


async def test_it_is_told_which_machine_and_why_and_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSWBOT_TELEGRAM__TOKEN", "123:secret")
    told = tmp_path / "told"
    command = shell(f"env > {told}")
    command.reason = "idle for 31 min; 中文"
    await command.stop()
    lines = [line for line in told.read_text().splitlines() if line.startswith("DSWBOT_")]
    assert sorted(lines) == ["DSWBOT_INSTANCE=home", "DSWBOT_REASON=idle for 31 min; 中文"]
    assert f"PATH={os.environ['PATH']}" in told.read_text()


async def test_arguments_are_passed_as_they_are(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"import sys; open({str(told)!r}, 'w').write(repr(sys.argv[1:]))"
    await StopCommand([sys.executable, "-c", script, "a b", "$HOME; false"], "home").stop()
    assert told.read_text() == "['a b', '$HOME; false']"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo one; echo 'no route to host' >&2; exit 3", "the stop command failed (exit code 3): no route to host"),
        ("exit 1", "the stop command failed (exit code 1): it printed nothing"),
        ("head -c 100000 /dev/zero | tr '\\0' x; exit 1", "the stop command failed (exit code 1): " + "x" * 200),
        ("printf '\\377\\376'; exit 1", "the stop command failed (exit code 1): \ufffd\ufffd"),
        ("kill -9 $$", "the stop command failed (exit code -9): it printed nothing"),
    ],
)
async def test_a_failure_is_told_in_its_last_line(script: str, told: str) -> None:
    with pytest.raises(CallFailed) as caught:
        await shell(script).stop()
    assert str(caught.value) == told


async def test_what_can_not_be_run_is_told() -> None:
    with pytest.raises(CallFailed, match=r"^the stop command /no/such can't be run: No such file or directory$"):
        await StopCommand(["/no/such", "x"], "home").stop()


async def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(CallFailed, match=r"^the stop command was killed: it took more than 0.5 s$"):
        await shell(f"sleep 60 & echo $! $$ > {pids}; wait", limit=0.5).stop()
    assert time.monotonic() - began < 5
    assert not [pid for pid in map(int, pids.read_text().split()) if alive(pid)]


async def test_one_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(shell(f"echo $$ > {pids}; sleep 60").stop())
    while not pids.exists() or not pids.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int(pids.read_text()))


async def test_what_it_leaves_running_does_not_hold_it_up(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    await shell(f"sleep 60 & echo $! > {pids}").stop()
    left = int(pids.read_text())
    assert time.monotonic() - began < 5
    assert alive(left)
    os.kill(left, signal.SIGKILL)


async def test_everything_else_is_not_known_or_not_possible() -> None:
    command: Cloud = shell("true")
    assert command.instance == "home"
    assert await command.view() == View(None)
    assert list(await command.lived(now())) == []
    unknown = (command.usage(now()), command.price("x"), command.stock("x"), command.subscription())
    assert await asyncio.gather(*unknown) == [None] * 4
    await command.disarm()
    await command.guard(None)
    impossible = (command.save("x"), command.start(), command.arm(timedelta(1)), command.guard(Culler(5, 5, 60)))
    failures = await asyncio.gather(*impossible, return_exceptions=True)
    assert all(isinstance(one, CallFailed) and str(one).startswith("only ") for one in failures)
