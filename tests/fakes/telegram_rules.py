"""What Telegram does to a text before it keeps it, and how many calls it takes.

Facts from the Bot API's documentation, its open-source server and TDLib. Two surprise: white space around a
text is cut off (an edit that only adds a space is "not modified"), and tabs become spaces.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from tests.fakes.telegram_markup import MarkupError, parse_html, parse_markdown, units
from tests.fakes.telegram_types import Button, Entity, Keyboard, Params, bad_request

MAX_UNITS = 4096
MAX_CAPTION_UNITS = 1024
MAX_ENTITIES_SHOWN = 100
MAX_BUTTONS = 100
MAX_BUTTONS_A_ROW = 8
_PARSERS = {"html": parse_html, "markdownv2": parse_markdown}
_STYLES = {"bold", "italic", "underline", "strikethrough", "spoiler", "blockquote", "expandable_blockquote"}
_STYLES |= {"code", "pre", "text_link", "text_mention", "custom_emoji", "date_time"}
_FOUND_BY_SERVER = {"mention", "hashtag", "cashtag", "bot_command", "url", "email", "phone_number"}
_FOUND_BY_SERVER |= {"bank_card_number"}
_TO_SPACE = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f]")
_REMOVED = re.compile(r"[\r\u2028-\u202e\u0333\u033f\u030a]")
_IN_USER_TEXT = {
    "bot_command": re.compile(r"(?<![\w/])/\w{1,32}(?:@\w+)?"),
    "mention": re.compile(r"(?<!\w)@\w{4,32}"),
}


@dataclass(frozen=True, slots=True)
class Formatted:
    text: str
    entities: tuple[Entity, ...] = ()


def formatted(params: Params) -> Formatted:
    """The text and entities of a call as Telegram keeps them; its length is not checked yet."""
    if not params.get("text"):
        raise bad_request("message text is empty")
    result = _parsed(params, "text", "entities")
    if not result.text:
        raise bad_request("text must be non-empty")
    return result


def caption(params: Params) -> Formatted:
    """The text below a photo, which may be empty."""
    result = _parsed(params, "caption", "caption_entities") if params.get("caption") else Formatted("")
    if units(result.text) > MAX_CAPTION_UNITS:
        raise bad_request("message caption is too long")
    return result


def _parsed(params: Params, field: str, marks: str) -> Formatted:
    text, mode = params[field], params.get("parse_mode", "").lower()
    _check_encoding(text)
    if mode in {"", "none"}:
        entities = _entities(params, marks)
    elif mode in _PARSERS:
        try:
            text, entities = _PARSERS[mode](text)
        except MarkupError as error:
            raise bad_request(f"can't parse entities: {error}") from error
    else:
        raise bad_request("unsupported parse_mode")
    return _trimmed(_cleaned(text, entities))


def _check_encoding(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise bad_request("strings must be encoded in UTF-8")


def user_entities(text: str) -> tuple[Entity, ...]:
    """The commands and mentions that Telegram itself finds in what a user writes."""
    found = ((kind, match) for kind, pattern in _IN_USER_TEXT.items() for match in pattern.finditer(text))
    return tuple(Entity(kind, units(text[: match.start()]), units(match.group())) for kind, match in found)


def keyboard(params: Params) -> Keyboard | None:
    """The inline keyboard of a call; other kinds of reply_markup are taken and not shown on the message."""
    if "inline_keyboard" not in params.get("reply_markup", ""):
        return None
    markup = params.decoded("reply_markup", Keyboard, "")
    if sum(len(row) for row in markup.inline_keyboard) > MAX_BUTTONS:
        raise bad_request("reply markup is too long")
    for row in markup.inline_keyboard:
        if len(row) > MAX_BUTTONS_A_ROW:
            raise bad_request(f"a row of the inline keyboard has more than {MAX_BUTTONS_A_ROW} buttons")
        for button in row:
            _check_button(button)
    return markup if any(markup.inline_keyboard) else None


def _check_button(button: Button) -> None:
    _check_encoding(button.text)
    if not button.text.strip():
        raise bad_request("inline keyboard button text is empty")
    if button.callback_data is None and button.url is None:
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
    if button.callback_data is not None and button.url is not None:
        raise bad_request("can't parse inline keyboard button: exactly one of the optional fields must be used")
    if button.callback_data is not None and not 1 <= len(button.callback_data.encode()) <= 64:
        raise bad_request("BUTTON_DATA_INVALID")


def _entities(params: Params, field: str) -> list[Entity]:
    entities = params.decoded(field, list[Entity], "[]")
    for entity in entities:
        if entity.type not in _STYLES | _FOUND_BY_SERVER:
            raise bad_request("can't parse MessageEntity: Unsupported type specified")
    return [entity for entity in entities if entity.type in _STYLES and entity.length]


def _cleaned(text: str, entities: Iterable[Entity]) -> Formatted:
    """Control characters become spaces; some characters vanish, and entities move up by as much."""
    edges = {0: 0}  # the old offset of each character's edge in UTF-16 units: its new offset
    old = new = 0
    for character in text:
        old += units(character)
        new += 0 if _REMOVED.match(character) else units(character)
        edges[old] = new
    kept = [_moved(entity, edges, end_of_text=old) for entity in entities]
    kept.sort(key=lambda entity: (entity.offset, -entity.length))
    return Formatted(_TO_SPACE.sub(" ", _REMOVED.sub("", text)), tuple(kept))


def _moved(entity: Entity, edges: dict[int, int], end_of_text: int) -> Entity:
    start, end = entity.offset, entity.offset + entity.length
    if start < 0:
        raise bad_request(f"receive an entity with incorrect offset {start}")
    if end < start:
        raise bad_request(f"receive an entity with incorrect length {entity.length}")
    if start >= end_of_text:
        raise bad_request(f"entity begins after the end of the text at UTF-16 offset {start}")
    where = f"entity beginning at UTF-16 offset {start}"
    if end > end_of_text:
        raise bad_request(f"{where} ends after the end of the text at UTF-16 offset {end}")
    if start not in edges or end not in edges:
        raise bad_request(f"{where} begins or ends in a middle of a UTF-16 symbol")
    return replace(entity, offset=edges[start], length=edges[end] - edges[start])


def _trimmed(message: Formatted) -> Formatted:
    """White space goes from both ends of the text and from the beginning of each entity."""
    text = message.text.strip(" \n")
    margin = len(message.text) - len(message.text.lstrip(" \n"))
    wide = message.text.encode("utf-16-le")
    kept: list[Entity] = []
    for entity in message.entities:
        covered = wide[2 * entity.offset : 2 * (entity.offset + entity.length)].decode("utf-16-le")
        start = entity.offset + len(covered) - len(covered.lstrip(" \n")) - margin
        end = min(entity.offset + entity.length - margin, units(text))
        if start < end:
            kept.append(replace(entity, offset=start, length=end - start))
    return Formatted(text, tuple(kept[:MAX_ENTITIES_SHOWN]))


@dataclass(frozen=True, slots=True)
class Flood:
    """Telegram's published limits on calls that name a chat; `speed` makes them so many times as fast."""

    private_per_second: float = 1
    group_per_minute: float = 20
    overall_per_second: float = 30
    burst: int = 3  # calls that a private chat takes at once
    speed: float = 1


@dataclass(slots=True)
class _Penalty:
    until: float
    seconds: int


class FloodGate:
    """Admits calls or says how many whole seconds to wait; who does not wait, waits longer."""

    def __init__(self, flood: Flood | None) -> None:
        self._flood = flood
        self._buckets: dict[str, tuple[float, float]] = {}  # calls left, and when that was counted
        self._penalties: dict[str, _Penalty] = {}

    def punish(self, place: str, seconds: int) -> None:
        self._penalties[place] = _Penalty(time.monotonic() + seconds, seconds)

    def still_punished(self, place: str) -> int:
        """Whole seconds left of a penalty, made longer by this very call; 0 where there is none."""
        now, penalty = time.monotonic(), self._penalties.get(place)
        if penalty is None or penalty.until <= now:
            return 0
        penalty.until += penalty.seconds
        return math.ceil(penalty.until - now)

    def overflow(self, chat_id: str) -> int:
        """Counts a call to a chat; the seconds to wait where that was one too many."""
        if (flood := self._flood) is None:
            return 0
        if chat_id.startswith("-"):
            wait = self._take(chat_id, flood.group_per_minute, flood.group_per_minute / 60 * flood.speed)
        else:
            wait = self._take(chat_id, flood.burst, flood.private_per_second * flood.speed)
        everywhere = flood.overall_per_second
        return max(wait, self._take("all chats", everywhere, everywhere * flood.speed))

    def _take(self, bucket: str, capacity: float, per_second: float) -> int:
        now = time.monotonic()
        left, counted = self._buckets.get(bucket, (capacity, now))
        left = min(capacity, left + (now - counted) * per_second)
        self._buckets[bucket] = (left - 1 if left >= 1 else left, now)
        return 0 if left >= 1 else max(1, math.ceil((1 - left) / per_second))
