"""How the service runs and how it ends: what began is finished or noted within the deadline, the rest waits in tables.

First nothing more is let in; then turns may come to their end, and those that don't are noted as they are; then
what is being sent has time to be answered, since nobody could say later whether it arrived.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()

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
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


async def run_until(stop: asyncio.Event, stages: list[Stage], seconds: float) -> None:
    """Runs all loops until `stop`, then ends them stage by stage. The first that fails ends the service with its error.

    `seconds`: that stopping may take in all, what comes after this call included.
    """
    running = [
        [asyncio.create_task(loop(), name=name) for name, loop in stage.loops.items()] for stage in stages
    ]  # fmt: skip
    everything = [task for tasks in running for task in tasks]
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        done, _ = await asyncio.wait([stopping, *everything], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
        began = _deadline(seconds)
        for stage, tasks in zip(stages, running, strict=True):
            stage.close()
            await _ended(tasks, began + stage.share * seconds)
    finally:
        stopping.cancel()
        await _ended([*everything, stopping], 0.0)


def _deadline(seconds: float) -> float:
    """Everything that matters is in tables, so a stop that hangs (a database that is gone, a driver) is cut short."""

    def give_up() -> None:
        log.warning("stopping took too long; what is unfinished goes on at the next start")
        os._exit(0)

    timer = threading.Timer(max(SPARE, seconds - SPARE), give_up)
    timer.daemon = True
    timer.start()
    return asyncio.get_running_loop().time()


async def _ended(tasks: list[asyncio.Task[Any]], until: float) -> None:
    """Waits for the tasks until a time of the loop's clock, then cancels what is left of them."""
    alive = {task for task in tasks if not task.done()}
    if alive and (left := until - asyncio.get_running_loop().time()) > 0:
        _, alive = await asyncio.wait(alive, timeout=left)
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive)
