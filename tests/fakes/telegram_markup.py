"""parse_mode: HTML and MarkdownV2 become text and entities, or the complaint that Telegram makes.

Offsets in complaints count UTF-8 bytes, those in entities UTF-16 units. Not modelled: the legacy Markdown
mode, custom emoji in MarkdownV2, and how Telegram drops or splits entities that overlap code or each other.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec.structs import replace

from tests.fakes.telegram_types import Entity

_TAGS = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    **dict.fromkeys(("tg-spoiler", "span"), "spoiler"),
    "a": "text_link",
    "blockquote": "blockquote",
    "code": "code",
    "pre": "pre",
    "tg-emoji": "custom_emoji",
}
_TAG_NAME = re.compile(r"</?([^\s>]*)")
_TAG_END = re.compile(r"\s*>")
_ATTRIBUTE = re.compile(r"""\s*([^\s=>]+)(?:\s*=\s*("[^"]*"|'[^']*'|[\w.-]+))?""")
_CHARACTER = re.compile(r"&(?:(?:lt|gt|amp|quot)(?![a-zA-Z])|#\d{1,7}|#x[0-9a-fA-F]{1,6});?")  # no other name is known

_RESERVED = "_*[]()~`>#+-=|{}.!\n"
_DELIMITERS = {  # longest first: the entity that it opens, and what a complaint calls it
    "```": ("pre", "Pre"),
    "__": ("underline", "Underline"),
    "||": ("spoiler", "Spoiler"),
    "`": ("code", "Code"),
    "_": ("italic", "Italic"),
    "*": ("bold", "Bold"),
    "~": ("strikethrough", "Strikethrough"),
    "[": ("text_link", "TextUrl"),
    ">": ("blockquote", "BlockQuote"),
}
_LANGUAGE = re.compile(r"([^\s`]*)(?:\r\n|\n\r|\n|\r)?")
_ADDRESS = re.compile(r"\(((?>\\[\x01-\x7e]|[^)])*)\)")


class MarkupError(Exception):
    """Telegram can't parse this markup."""


def units(text: str) -> int:
    """Length in UTF-16 units, as Telegram counts."""
    return len(text) + sum(character > "\uffff" for character in text)


def parse_html(source: str) -> tuple[str, list[Entity]]:
    parser = _Html(source)
    while parser.at < len(source):
        if source[parser.at] == "<":
            parser.tag()
        elif character := _CHARACTER.match(source, parser.at):
            parser.emit(_character(character), character.end())
        else:
            parser.emit(source[parser.at], parser.at + 1)
    if parser.open:
        raise MarkupError(f'Can\'t find end tag corresponding to start tag "{parser.open[-1].opener}"')
    return parser.text, [replace(e, language=None) if e.type == "code" else e for e in parser.entities]


def parse_markdown(source: str) -> tuple[str, list[Entity]]:
    parser = _Markdown(source)
    while parser.at < len(source):
        parser.step()
    if parser.top == ">":
        parser.end("blockquote")
    if parser.open:
        raise parser.unclosed()
    return parser.text, parser.entities


def link(url: str) -> str | None:
    """The address that Telegram keeps for a link; None where it drops the link and keeps its text."""
    if re.match(r"(?:https?|ftp|tg|ton|mailto|tel):", url, re.IGNORECASE):
        return url
    return f"http://{url}" if re.match(r"[^\s:/]+\.[^\s./:]{2,}(?:[/?#:]|$)", url) else None


def _character(reference: re.Match[str]) -> str:
    return html.unescape(reference.group())


@dataclass(frozen=True, slots=True)
class _Open:
    """An entity whose end has not come yet."""

    opener: str
    byte: int  # in the source
    units: int  # in the text, as is `characters`
    characters: int
    attributes: Mapping[str, str]


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.text = ""
        self.open: list[_Open] = []
        self.entities: list[Entity] = []

    @property
    def byte(self) -> int:
        return len(self.source[: self.at].encode())

    @property
    def top(self) -> str:
        return self.open[-1].opener if self.open else ""

    def emit(self, text: str, at: int) -> None:
        self.text += text
        self.at = at

    def begin(self, opener: str, at: int, attributes: Mapping[str, str] = MappingProxyType({})) -> None:
        self.open.append(_Open(opener, self.byte, units(self.text), len(self.text), attributes))
        self.at = at

    def end(self, kind: str, *, url: str | None = None) -> None:
        start = self.open.pop()
        length = units(self.text) - start.units
        if kind == "text_link" and (url := link(url or self.text[start.characters :])) is None:
            return
        if length:  # an empty entity leaves no trace
            language, emoji = start.attributes.get("language"), start.attributes.get("emoji-id")
            entity = Entity(kind, start.units, length, url=url, language=language, custom_emoji_id=emoji)
            self.entities.append(entity)


class _Html(_Parser):
    def tag(self) -> None:
        name = _TAG_NAME.match(self.source, self.at)
        assert name
        is_end = name.group().startswith("</")
        if name.end() == len(self.source):
            raise MarkupError(f"Unclosed {'end' if is_end else 'start'} tag at byte offset {self.byte}")
        handle = self._end_tag if is_end else self._start_tag
        handle(name.group(1).lower(), name.end())

    def _start_tag(self, name: str, at: int) -> None:
        if name not in _TAGS:
            raise MarkupError(f'Unsupported start tag "{name}" at byte offset {self.byte}')
        attributes: dict[str, str] = {}
        while attribute := _ATTRIBUTE.match(self.source, at):
            value = (attribute.group(2) or "").strip("\"'")
            attributes[attribute.group(1).lower()] = _CHARACTER.sub(_character, value)
            at = attribute.end()
        close = _TAG_END.match(self.source, at)
        if close is None:
            raise MarkupError(f'Unclosed start tag "{name}" at byte offset {self.byte}')
        if name == "span" and attributes.get("class") != "tg-spoiler":
            raise MarkupError(f'Tag "span" must have class "tg-spoiler" at byte offset {self.byte}')
        if name == "code" and attributes.get("class", "").startswith("language-"):
            attributes["language"] = attributes["class"].removeprefix("language-")
        self.begin(name, close.end(), attributes)

    def _end_tag(self, name: str, at: int) -> None:
        close = _TAG_END.match(self.source, at)
        if close is None:
            raise MarkupError(f"Unclosed end tag at byte offset {self.byte}")
        if not self.open:
            raise MarkupError(f"Unexpected end tag at byte offset {self.byte}")
        if name not in {"", self.top}:
            where = f"Unmatched end tag at byte offset {self.byte}"
            raise MarkupError(f'{where}, expected "</{self.top}>", found "</{name}>"')
        self.at = close.end()
        attributes = self.open[-1].attributes
        kind = _TAGS[self.top]
        if kind == "blockquote" and "expandable" in attributes:
            kind = "expandable_blockquote"
        self.end(kind, url=attributes.get("href"))
        if kind == "pre":
            self._merge_code_into_pre()

    def _merge_code_into_pre(self) -> None:
        """<pre><code class="language-x"> is one entity, a `pre` with a language."""
        if len(self.entities) > 1:
            code, pre = self.entities[-2:]
            merged = replace(pre, language=code.language)
            if code.type == "code" and replace(code, type="pre") == merged:
                self.entities[-2:] = [merged]


class _Markdown(_Parser):
    def step(self) -> None:
        source, at = self.source, self.at
        character, following = source[at], source[at + 1 : at + 2]
        reserved = "`" if self.top in {"`", "```"} else _RESERVED
        if character == "\\" and "\0" < following <= "~":
            self.emit(following, at + 2)
        elif character not in reserved:
            self.emit(character, at + 1)
        elif character == "\n":
            self._line_end(following)
        elif self._closes(character):
            self._close()
        else:
            self._begin(character)

    def unclosed(self) -> MarkupError:
        start = self.open[-1]
        name = "PreCode" if "language" in start.attributes else _DELIMITERS[start.opener][1]
        return MarkupError(f"Can't find end of {name} entity at byte offset {start.byte}")

    def _line_end(self, following: str) -> None:
        quoted = any(start.opener == ">" for start in self.open)
        self.emit("\n", self.at + 1)
        if following == ">":
            if quoted:
                self.at += 1
            else:
                self.begin(">", self.at + 1)
        elif quoted:
            if self.top != ">":
                raise self.unclosed()
            self.end("blockquote")

    def _closes(self, character: str) -> bool:
        if self.top == "_":
            return character == "_" and not self.source.startswith("__", self.at)
        if self.top == "[":
            return character == "]"
        if self.top == ">":  # || at the end of a quotation's last line makes it expandable
            return re.compile(r"\|\|(?:\n|\Z)").match(self.source, self.at) is not None
        return bool(self.top) and self.source.startswith(self.top, self.at)

    def _close(self) -> None:
        opener, url = self.top, None
        self.at += 2 if opener == ">" else len(opener)
        if opener == "[" and self.source.startswith("(", self.at):
            address = _ADDRESS.match(self.source, self.at)
            if address is None:
                raise MarkupError(f"Can't find end of a URL at byte offset {self.byte + 1}")
            url, self.at = re.sub(r"\\([\x01-\x7e])", r"\1", address.group(1)), address.end()
        self.end("expandable_blockquote" if opener == ">" else _DELIMITERS[opener][0], url=url)

    def _begin(self, character: str) -> None:
        opener = next((mark for mark in _DELIMITERS if self.source.startswith(mark, self.at)), "")
        if not opener or (opener == ">" and self.at > 0):
            must = "is reserved and must be escaped with the preceding '\\'"
            raise MarkupError(f"Character '{character}' {must}")
        at = self.at + len(opener)
        if opener != "```":
            return self.begin(opener, at)
        language = _LANGUAGE.match(self.source, at)
        assert language
        name, after = language.group(1), self.source[language.end(1) : language.end(1) + 1]
        if name and after in {"", "`"}:
            return self.begin(opener, at)  # ```x``` has no language: x is the code
        return self.begin(opener, language.end(), {"language": name} if name else {})
