"""Logging: one line an event, to stderr; coloured on a terminal, `key=value` elsewhere."""

import contextlib
import io
import logging
import os
import sys
from typing import Any

import structlog


class _StandardError(io.RawIOBase):
    """What can't be written (the disk is full, the reader has gone) is lost, and nothing else. Nothing is kept back."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        left = memoryview(data)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(2, left) :]
        return len(memoryview(data))


def configure(level: int = logging.INFO) -> None:
    """Sets structlog and the standard library's logging up. Libraries speak from WARNING on."""
    terminal = sys.stderr.isatty()
    stderr = io.TextIOWrapper(io.BufferedWriter(_StandardError()), errors="backslashreplace")
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if terminal
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if not terminal else "%H:%M:%S", utc=not terminal),
    ]
    if not terminal:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=stderr, format="%(levelname)s %(name)s: %(message)s")
