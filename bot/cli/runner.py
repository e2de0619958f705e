"""What all commands share: the settings, a loop to run in, and errors in this package's own terms."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bot.errors import DswbotError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.config import Settings

T = TypeVar("T")


def settings() -> "Settings":
    """The configuration in force."""
    from bot.config import load

    return load(os.environ)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What the packages below complain about, as an error of this one."""
    from inference.errors import InferenceError
    from storage.errors import StorageError

    try:
        yield
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, InferenceError | StorageError):
            raise DswbotError(str(cause)) from error
        if isinstance(cause, DswbotError):
            raise cause from error.__cause__
        raise


def _cause(error: BaseException) -> BaseException:
    """The one error in groups of one, which is how tasks that ran side by side end."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end."""
    with plain_errors():
        return asyncio.run(main)


def in_database(work: "Callable[[AsyncSession], Awaitable[T]]") -> T:
    """Runs one transaction on the configured database."""
    from bot.app import opened_database

    async def _work() -> T:
        async with opened_database(settings()) as database, database.write() as session:
            return await work(session)

    return run(_work())
