"""The order in which the service ends, and that it ends."""

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bot import lifecycle
from bot.lifecycle import SENDING, TURNS, Stage, run_until


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline's own end is tested in processes of their own."""

    class Never:
        daemon = False

        def __init__(self, *_: object) -> None:
            pass

        def start(self) -> None:
            pass

    monkeypatch.setattr(lifecycle.threading, "Timer", Never)


class Work:
    """A loop that says how it ended; where it is `obedient`, it ends `after` seconds when it is closed."""

    def __init__(self, name: str, told: list[str], *, after: float = 0.0, obedient: bool = True) -> None:
        self.name, self.told, self.after, self.obedient = name, told, after, obedient
        self.closed = asyncio.Event()

    def close(self) -> None:
        self.told.append(f"{self.name} closed")
        if self.obedient:
            self.closed.set()

    async def run(self) -> None:
        try:
            await self.closed.wait()
            await asyncio.sleep(self.after)
        except asyncio.CancelledError:
            self.told.append(f"{self.name} cancelled")
            raise
        self.told.append(f"{self.name} done")

    def stage(self, share: float = 0.5) -> Stage:
        return Stage({self.name: self.run}, self.close, share)


async def stopped(stages: list[Stage], seconds: float) -> float:
    """Stops at once; how long that took."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_until(stop, stages, seconds))
    await asyncio.sleep(0.01)
    stop.set()
    began = time.monotonic()
    async with asyncio.timeout(30):
        await running
    return time.monotonic() - began


async def test_stages_end_one_after_the_other() -> None:
    told: list[str] = []
    work = [Work(name, told, after=0.01) for name in ("intake", "turns", "deliveries")]
    await stopped([one.stage() for one in work], 30)
    assert told == [f"{name} {what}" for name in ("intake", "turns", "deliveries") for what in ("closed", "done")]


async def test_a_stage_has_its_share_of_the_time_and_then_is_cancelled() -> None:
    told: list[str] = []
    first, second = Work("turns", told, obedient=False), Work("deliveries", told, after=0.01)
    took = await stopped([first.stage(TURNS), second.stage(SENDING)], 1.0)
    assert told == ["turns closed", "turns cancelled", "deliveries closed", "deliveries done"]
    assert TURNS <= took < SENDING + 1


async def test_shares_count_from_the_beginning_and_not_from_the_stage_before() -> None:
    """So that stages that hang can't take more together than the last of them may."""
    told: list[str] = []
    took = await stopped([Work(name, told, obedient=False).stage(0.4) for name in "abcd"], 1.0)
    assert [line for line in told if "cancelled" in line] == [f"{name} cancelled" for name in "abcd"]
    assert 0.4 <= took < 1.2


async def test_a_stage_without_a_share_is_cancelled_at_once() -> None:
    told: list[str] = []
    assert await stopped([Work("intake", told, obedient=False).stage(0.0)], 60) < 5
    assert told == ["intake closed", "intake cancelled"]


async def test_nothing_to_do_takes_no_time() -> None:
    told: list[str] = []
    assert await stopped([Work(name, told).stage() for name in "abc"], 60) < 5


async def test_the_first_that_fails_ends_all_with_its_error() -> None:
    told: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("broken")

    stages = [Stage({"failing": failing}), Work("turns", told).stage()]
    with pytest.raises(ValueError, match="broken"):
        async with asyncio.timeout(10):
            await run_until(asyncio.Event(), stages, 30)
    assert told == ["turns cancelled"]


async def test_a_loop_that_fails_while_all_end_is_told_and_the_others_end_as_they_should(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[str] = []
    closed = asyncio.Event()

    async def failing() -> None:
        await closed.wait()
        raise ValueError("broken")

    stages = [Stage({"turns": failing}, closed.set, 0.5), Work("deliveries", told).stage()]
    await stopped(stages, 5)
    assert told == ["deliveries closed", "deliveries done"]
    assert "ValueError: broken" in capsys.readouterr().out


async def test_no_task_is_left() -> None:
    told: list[str] = []
    before = asyncio.all_tasks()
    await stopped([Work("turns", told, obedient=False).stage(0.01)], 1)
    assert asyncio.all_tasks() == before


# Processes of their own: signals, and the end that cuts everything short.

PROLOGUE = """
    import asyncio, os, sys, time
    from bot.lifecycle import Stage, run_until, stop_signal

    async def forever():
        print("up", flush=True)
        await asyncio.Event().wait()

    async def stubborn():
        print("up", flush=True)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def main(loop, seconds, share=0.0):
        await run_until(stop_signal(), [Stage({"loop": loop}, share=share)], seconds)
        print("over", flush=True)
"""


def process(main: str) -> subprocess.Popen[str]:
    """A process that is up."""
    code = textwrap.dedent(PROLOGUE) + textwrap.dedent(main)
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert started.stdout
    assert started.stdout.readline() == "up\n"
    return started


def gone(pid: str) -> bool:
    """Whether a process has ended, or ends within seconds."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def ended(started: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Its exit code, what else it said, and the seconds until then."""
    began = time.monotonic()
    said, _ = started.communicate(timeout=30)
    return started.returncode, said, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_order(number: int) -> None:
    started = process("asyncio.run(main(forever, 20))")
    started.send_signal(number)
    code, said, seconds = ended(started)
    assert (code, said) == (0, "over\n")
    assert seconds < 10


def test_what_does_not_end_is_cut_short_before_the_deadline_with_exit_code_0() -> None:
    started = process("asyncio.run(main(stubborn, 1.5))")
    started.send_signal(signal.SIGTERM)
    code, said, seconds = ended(started)
    assert code == 0
    assert re.fullmatch(r"[^\n]*stopping took too long[^\n]*\n", said)
    assert 1.0 < seconds < 6


def test_the_deadline_holds_for_what_comes_after_the_loops_and_for_a_loop_that_is_blocked() -> None:
    started = process("asyncio.run(main(forever, 1.0)); time.sleep(60)")
    started.send_signal(signal.SIGTERM)
    assert ended(started)[0] == 0


def test_no_child_survives_that_could_not_see_that_its_parent_is_gone() -> None:
    started = process("""
        import signal, subprocess
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, start_new_session=True)
        child.send_signal(signal.SIGSTOP)
        asyncio.run(main(stubborn, 1.0))
    """)
    (child,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    started.send_signal(signal.SIGTERM)
    assert ended(started)[0] == 0
    assert gone(child)


def test_the_second_signal_ends_the_process_at_once() -> None:
    started = process("asyncio.run(main(stubborn, 60, 0.9))")
    started.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert started.poll() is None
    started.send_signal(signal.SIGTERM)
    code, said, seconds = ended(started)
    assert (code, said) == (1, "")
    assert seconds < 5


def test_a_failure_whose_clearing_up_hangs_ends_the_process_too() -> None:
    started = process("""
        async def failing():
            await asyncio.sleep(0.1)
            raise OSError("broken")

        async def both():
            await run_until(stop_signal(), [Stage({"failing": failing, "stubborn": stubborn})], 1.0)

        asyncio.run(both())
    """)
    code, said, _ = ended(started)
    assert code == 1
    assert "broken" in said
