"""`dswbot serve` as it is, with failpoints around its functions and a disk that can be full.

    python -m bench.torture.victim serve

TORTURE_FAILPOINT=NAME#N: dies at the Nth passage of this point. SIGUSR1: SQLite finds no room from now on, SIGUSR2:
it does again. The pauses between tries of a delivery and between edits are shortened; nothing else of the product is
changed.
"""

import os
import signal
import time
from typing import Any

RETRIES = 0.5  # seconds between the tries of a delivery, instead of up to a day
EDITS = 0.2  # seconds between two edits of an answer, which would be over before the first of them


def _tell(line: str) -> None:
    os.write(1, f"\ntorture: {line}\n".encode())


def _time_the_model() -> None:
    """Says what each load of the model took, from the start of its process."""
    from inference.engine import Engine

    enter, change = Engine.__aenter__, Engine._set
    began = time.monotonic()

    async def entering(self: Engine) -> Engine:
        nonlocal began
        began = time.monotonic()
        return await enter(self)

    def changing(self: Engine, status: Any, reason: str = "") -> None:
        nonlocal began
        change(self, status, reason)
        if status == "ready":
            _tell(f"model {time.monotonic() - began:.3f}")
        began = time.monotonic()

    Engine.__aenter__ = entering  # type: ignore[method-assign]
    Engine._set = changing  # type: ignore[method-assign]


def _let_the_disk_fill_up() -> None:
    """No page more than there are: what needs one fails with `database or disk is full`."""
    from sqlalchemy import Connection, Engine, event

    limit = most = 2**32 - 2
    changed = False

    def fill(number: int, _frame: object) -> None:
        nonlocal limit, changed
        limit, changed = (1 if number == signal.SIGUSR1 else most), True

    def begun(connection: Connection) -> None:
        if changed and connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

    signal.signal(signal.SIGUSR1, fill)
    signal.signal(signal.SIGUSR2, fill)
    event.listen(Engine, "begin", begun)


def _shorten_pauses() -> None:
    from bot import delivery
    from bot.telegram import gate
    from bot.web import callbacks

    delivery.RETRY_SECONDS = tuple(RETRIES for _ in delivery.RETRY_SECONDS)  # type: ignore[assignment]
    gate.SHORTEST_GAP = EDITS
    callbacks.DELAYS = tuple(RETRIES for _ in callbacks.DELAYS)  # type: ignore[assignment]


def main() -> None:
    from bench.torture.failpoints import Failpoint, install
    from bot.__main__ import main as dswbot

    name, _, passage = os.environ.get("TORTURE_FAILPOINT", "").partition("#")
    install(Failpoint(name, int(passage or 1)))
    _time_the_model()
    _let_the_disk_fill_up()
    _shorten_pauses()
    dswbot()


if __name__ == "__main__":
    main()
