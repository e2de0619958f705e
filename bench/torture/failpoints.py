"""Named points of the product at which a process can be made to die, put around its functions from outside.

A storage function marks the session that it is given; when that session commits, the process passes the
function's points before and after the commit. A sender passes its points before and after the call.
"""

import functools
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

COMMITS = {
    "accept": ("storage.inbox", "accept"),
    "command": ("storage.inbox", "record"),
    "claim": ("storage.inbox", "claim"),
    "renew": ("storage.inbox", "renew"),
    "checkpoint": ("storage.inbox", "checkpoint"),
    "placeholder": ("storage.inbox", "set_placeholder"),
    "finish": ("storage.inbox", "finish"),
    "fail": ("storage.inbox", "fail"),
    "release": ("storage.inbox", "release"),
    "take over": ("storage.inbox", "release_owned"),
    "delivery claim": ("storage.outbox", "claim_due"),
    "delivery settle": ("storage.outbox", "abandoned"),
    "delivery sent": ("storage.outbox", "mark_sent"),
    "delivery retry": ("storage.outbox", "mark_retry"),
    "delivery uncertain": ("storage.outbox", "mark_uncertain"),
}
EMPTY_HANDED = {"claim", "renew", "delivery claim", "delivery settle"}  # count only where they give something
SENDS = ("send placeholder", "send message", "edit message", "post callback", "poll")
SIDES = ("before", "after")

STOPPING = [f"release:{side}" for side in SIDES]  # passed where a process is told to stop
MIGRATING = ["migration:before", "migration:inside", "migration:after"]
RUNNING = [
    f"{name}:{side}"
    for name in (*(name for name in COMMITS if name not in ("release", "placeholder")), "placeholder intent",
                 "placeholder number", *SENDS)
    for side in SIDES
]  # fmt: skip
ALL = [*RUNNING, *STOPPING, *MIGRATING]


class Failpoint:
    """Counts the passages of one point, and ends the process at the one that was asked for."""

    def __init__(self, name: str, passage: int) -> None:
        self._name = name
        self._passage = passage
        self._passed: Counter[str] = Counter()

    def passes(self, name: str) -> None:
        if name != self._name:
            return
        self._passed[name] += 1
        if self._passed[name] == self._passage:
            os.write(1, f"\ntorture: died at {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def install(failpoint: Failpoint) -> None:
    """Wraps the product's functions. One that is not there any more is an error."""
    import importlib

    for name, (module, function) in COMMITS.items():
        _wrap(importlib.import_module(module), function, functools.partial(_marking, name))
    _watch_commits(failpoint)
    _watch_sends(failpoint)
    _watch_migrations(failpoint)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    setattr(owner, name, wrapper(getattr(owner, name)))


def _marking(name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def marked(session: Any, *args: Any, **kwargs: Any) -> Any:
        result = await function(session, *args, **kwargs)
        if result or name not in EMPTY_HANDED:
            session.sync_session.info.setdefault("marks", []).append(_mark(name, args))
        return result

    return marked


def _mark(name: str, args: tuple[Any, ...]) -> str:
    """A placeholder is noted twice: that it is being sent, and its number."""
    if name != "placeholder":
        return name
    return "placeholder number" if args[1] else "placeholder intent"


def _watch_commits(failpoint: Failpoint) -> None:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    def pass_all(session: Session, side: str) -> None:
        for mark in session.info.get("marks", []):
            failpoint.passes(f"{mark}:{side}")

    def after(session: Session) -> None:
        pass_all(session, "after")
        session.info.pop("marks", None)

    def rolled_back(session: Session) -> None:
        session.info.pop("marks", None)

    event.listen(Session, "before_commit", lambda session: pass_all(session, "before"))
    event.listen(Session, "after_commit", after)
    event.listen(Session, "after_rollback", rolled_back)


def _watch_sends(failpoint: Failpoint) -> None:
    import telegram

    from bot.telegram.connection import Connection
    from bot.telegram.stream import PLACEHOLDER
    from bot.web.callbacks import CallbackSender

    def sent(_bot: Any, _chat: Any, text: str, *_: Any, **__: Any) -> str:
        return "send placeholder" if text == PLACEHOLDER else "send message"

    def called(name: str) -> Callable[..., str]:
        return lambda *_, **__: name

    for owner, function, name in (
        (telegram.Bot, "send_message", sent),
        (telegram.Bot, "edit_message_text", called("edit message")),
        (Connection, "updates", called("poll")),
        (CallbackSender, "_post", called("post callback")),
    ):
        _wrap(owner, function, functools.partial(_around, failpoint, name))


def _around(
    failpoint: Failpoint, name: Callable[..., str], function: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        point = name(*args, **kwargs)
        failpoint.passes(f"{point}:before")
        result = await function(*args, **kwargs)
        failpoint.passes(f"{point}:after")
        return result

    return around


def _watch_migrations(failpoint: Failpoint) -> None:
    from storage import migrations

    def within(function: Callable[..., None]) -> Callable[..., None]:
        def upgraded(*args: Any) -> None:
            failpoint.passes("migration:before")
            function(*args)
            failpoint.passes("migration:inside")

        return upgraded

    def whole(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def upgraded(*args: Any) -> None:
            await function(*args)
            failpoint.passes("migration:after")

        return upgraded

    _wrap(migrations, "_upgrade", within)
    _wrap(migrations, "upgrade", whole)
