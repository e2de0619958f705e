"""Pages behind the links in reminders: what one would do, with a button that does it.

Chat apps and mail scanners fetch links before anybody has seen them: so GET changes nothing, and POST does. The token
in the address is all that is asked for; it is signed, and works once.
"""

import base64
import hashlib
from datetime import datetime
from html import escape
from typing import Literal, Protocol

import structlog
from aiohttp import web

from storage.errors import StorageError

log = structlog.get_logger()

LONGEST_TOKEN = 200  # characters


class View(Protocol):
    """What a link would do. `minutes`: of a hold. `until`: of a mute, in the operators' zone."""

    @property
    def kind(self) -> Literal["stop", "hold", "mute"]: ...
    @property
    def instance(self) -> str: ...
    @property
    def minutes(self) -> int: ...
    @property
    def until(self) -> datetime: ...
    @property
    def state(self) -> Literal["open", "used", "expired"]: ...


class Orders(Protocol):
    """Who knows what the links mean. None: the token is none of ours. Both raise StorageError."""

    async def look(self, token: str) -> View | None: ...

    async def place(self, token: str) -> View | None:
        """Carries it out, if its state is "open"."""


Words = dict[str, str]

ENGLISH: Words = {
    "lang": "en",
    "stop": "Stop {gpu} now",
    "stop_note": "It is saved first where that is set up, and never deleted. If it is in use, it is not stopped.",
    "stop_done": "It will be stopped in a moment; a message says when that is done.",
    "hold": "Keep {gpu} for {minutes} more minutes",
    "hold_note": "Until then it is not stopped, and nobody is reminded.",
    "hold_done": "It is kept for {minutes} minutes from now.",
    "mute": "No reminders until {until}",
    "mute_note": "Warnings before a stop, and troubles, are still told.",
    "mute_done": "No reminders until {until}.",
    "gpu": "the GPU",
    "question": "{}?",
    "done": "Done",
    "used": "This was done already",
    "used_note": "Each link works once. A newer message has new ones.",
    "expired": "This link has expired",
    "expired_note": "Nothing was done. A newer message has new links.",
    "unknown": "This link is not valid",
    "unknown_note": "Nothing was done. Perhaps the address was cut off: open it from the message again.",
    "busy": "This can't be done just now",
    "busy_note": "Nothing was done. Try again in a minute.",
}
CHINESE: Words = {
    "lang": "zh-CN",
    "stop": "立即停止 {gpu}",
    "stop_note": "如已设置，会先保存镜像；绝不会删除实例。如果正在使用，则不会停止。",
    "stop_done": "马上就会停止；完成后会有消息告知。",
    "hold": "再保持 {gpu} 运行 {minutes} 分钟",
    "hold_note": "在此期间不会停止，也不会提醒。",
    "hold_done": "从现在起保持运行 {minutes} 分钟。",
    "mute": "{until} 之前不再提醒",
    "mute_note": "停止前的警告和故障仍会告知。",
    "mute_done": "{until} 之前不再提醒。",
    "gpu": "GPU",
    "question": "{}？",
    "done": "已完成",
    "used": "此操作已经执行过",
    "used_note": "每个链接只能使用一次，新的消息里有新的链接。",
    "expired": "链接已过期",
    "expired_note": "没有执行任何操作，新的消息里有新的链接。",
    "unknown": "链接无效",
    "unknown_note": "没有执行任何操作。地址可能不完整，请从消息中重新打开。",
    "busy": "暂时无法执行",
    "busy_note": "没有执行任何操作，请稍后再试。",
}

STYLE = """
:root{color-scheme:light dark}
body{font:1.1rem/1.5 system-ui,sans-serif;max-width:30rem;margin:12vh auto;padding:0 1.5rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .75rem}
p{margin:0 0 1.5rem;opacity:.8}
button{font:inherit;font-weight:600;width:100%;padding:.8rem;border:0;border-radius:.6rem;color:#fff;background:#1a56db}
button:focus-visible{outline:3px solid;outline-offset:3px}
button.stop{background:#b42318}
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Vary": "Accept-Language",
}
PAGE = """<!doctype html>
<html lang="{lang}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow"><title>{heading}</title><style>{style}</style></head>
<body><main><h1>{heading}</h1><p>{note}</p>{form}</main></body></html>
"""
STATUS = {"used": 410, "expired": 410, "unknown": 404, "busy": 503}


class OrderPages:
    """The handlers of `/orders`."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/orders/{token}", self.show), web.post("/orders/{token}", self.place)]

    async def show(self, request: web.Request) -> web.StreamResponse:
        words = _words(request.headers.get("Accept-Language", ""))
        try:
            view = await self._orders.look(_token(request))
        except StorageError as error:
            return _busy(words, error)
        if view is None or view.state != "open":
            return _told(words, view.state if view else "unknown")
        heading = _said(words, view.kind, view)
        button = f'<form method="post"><button class="{view.kind}">{escape(heading)}</button></form>'
        return _page(words, words["question"].format(heading), words[f"{view.kind}_note"], form=button)

    async def place(self, request: web.Request) -> web.StreamResponse:
        """The body says nothing, and is not read."""
        words = _words(request.headers.get("Accept-Language", ""))
        try:
            view = await self._orders.place(_token(request))
        except StorageError as error:
            return _busy(words, error)
        if view is None or view.state != "open":
            return _told(words, view.state if view else "unknown")
        log.info("an order came by a link", kind=view.kind, instance=view.instance)
        return _page(words, words["done"], _said(words, f"{view.kind}_done", view))


def _token(request: web.Request) -> str:
    return request.match_info["token"][:LONGEST_TOKEN]


def _said(words: Words, text: str, view: View) -> str:
    gpu = f"GPU {view.instance}" if view.instance else words["gpu"]
    until = f"{view.until:%H:%M} ({view.until.tzinfo})"
    return words[text].format(gpu=gpu, minutes=view.minutes, until=until)


def _busy(words: Words, error: StorageError) -> web.Response:
    log.error("an order by a link can't be looked up or noted", reason=str(error))
    return _told(words, "busy")


def _told(words: Words, what: str) -> web.Response:
    return _page(words, words[what], words[f"{what}_note"], status=STATUS[what])


def _page(words: Words, heading: str, note: str, *, form: str = "", status: int = 200) -> web.Response:
    """`form` is HTML, the others are text."""
    body = PAGE.format(lang=words["lang"], heading=escape(heading), note=escape(note), form=form, style=STYLE)
    return web.Response(status=status, headers=HEADERS, text=body, content_type="text/html", charset="utf-8")


def _words(accept_language: str) -> Words:
    """Chinese where the browser wants that rather than English."""
    wishes: dict[str, float] = {}
    for wish in accept_language.lower().split(",")[:20]:
        tag, _, weight = wish.partition(";q=")
        language = tag.strip()[:2]
        try:
            wishes[language] = max(wishes.get(language, 0.0), float(weight or 1))
        except ValueError:
            continue
    return CHINESE if wishes.get("zh", 0.0) > wishes.get("en", 0.0) else ENGLISH
