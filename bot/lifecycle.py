"""How the service runs and how it ends: what began is finished or noted within the deadline, the rest waits in tables.

First nothing more is let in; then turns may come to their end, and those that don't are noted as they are; then
what is being sent has time to be answered, since nobody could say later whether it arrived.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

TURNS = 0.35  # of the time to stop: for answers to come to their end
SENDING = 0.5  # of the time: until which sends may be answered
SPARE = 0.25  # seconds before the deadline at which the process ends whatever it is doing

Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Loops that end together. `close` asks them to; they have until `share` of the time before they are cancelled."""

    loops: dict[str, Loop]
    close: Callable[[], None] = lambda: None
    share: float = 0.0


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            _exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


async def unless_stopped(stop: asyncio.Event, starting: Coroutine[Any, Any, T], seconds: float) -> T | None:
    """Does a part of the start that may take long; None where it was told to stop meanwhile."""
    task = asyncio.create_task(starting, name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        _deadline(seconds)
        return None
    finally:
        await _ended([task, stopping], 0.0)


async def run_until(stop: asyncio.Event, stages: list[Stage], seconds: float) -> None:
    """Runs all loops until `stop`, then ends them stage by stage. The first that fails ends the service with its error.

    `seconds`: that stopping may take in all, what comes after this call included.
    """
    running = [
        [asyncio.create_task(loop(), name=name) for name, loop in stage.loops.items()] for stage in stages
    ]  # fmt: skip
    everything = [task for tasks in running for task in tasks]
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    first: set[asyncio.Task[Any]] = set()
    try:
        first, _ = await asyncio.wait([stopping, *everything], return_when=asyncio.FIRST_COMPLETED)
        _deadline(seconds, _failures(first))
        began = asyncio.get_running_loop().time()
        for task in first - {stopping}:
            task.result()
        for stage, tasks in zip(stages, running, strict=True):
            stage.close()
            await _ended(tasks, began + stage.share * seconds)
    finally:
        await _ended([*everything, stopping], 0.0)
        for name, error in _failures(set(everything) - first).items():
            log.error("a part of the service failed while it stopped", part=name, exc_info=error)


def _failures(tasks: Collection[asyncio.Task[Any]]) -> dict[str, BaseException]:
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    return {task.get_name(): error for task in ended if (error := task.exception())}


def _deadline(seconds: float, failures: Mapping[str, BaseException] = MappingProxyType({})) -> None:
    """Everything that matters is in tables, so a stop that hangs (a database that is gone, a driver) is cut short."""

    def give_up() -> None:
        for name, error in failures.items():  # which would have been told at the end
            log.error("a part of the service failed", part=name, reason=str(error))
        log.warning("stopping took too long; what is unfinished goes on at the next start")
        _exit(int(bool(failures)))

    timer = threading.Timer(max(SPARE, seconds - SPARE), give_up)
    timer.daemon = True
    timer.start()


def _exit(code: int) -> None:
    """Ends this process whatever it is doing, and its children: one that is stopped would not see that it is gone."""
    try:
        for listed in Path("/proc/self/task").glob("*/children"):
            for child in listed.read_text().split():
                os.kill(int(child), signal.SIGKILL)
    except OSError:  # a thread or a child that has gone meanwhile, or a system without /proc: no reason to stay
        pass
    finally:
        os._exit(code)


async def _ended(tasks: list[asyncio.Task[Any]], until: float) -> None:
    """Waits for the tasks until a time of the loop's clock, then cancels what is left of them."""
    alive = {task for task in tasks if not task.done()}
    if alive and (left := until - asyncio.get_running_loop().time()) > 0:
        _, alive = await asyncio.wait(alive, timeout=left)
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive)
