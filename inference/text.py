"""Tokens to text: incremental UTF-8, thinking split from the answer, stop strings.

Everything here is a function of the bytes fed so far and not of how they were cut, so a generation that
another worker takes over can replay its tokens and go on in the middle.
"""

import codecs

THINK, END_THINK = "<think>", "</think>"


def held_back(text: str, markers: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a marker."""
    longest = max((len(marker) for marker in markers), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-size:]) for marker in markers):
            return size
    return 0


class StopMatcher:
    """Ends the answer before the first of the stop strings, holding back what may become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._buffer = ""
        self.hit = False

    def feed(self, text: str) -> str:
        if self.hit:
            return ""
        self._buffer += text
        found = [at for stop in self._stops if (at := self._buffer.find(stop)) >= 0]
        if found:
            self.hit = True
            return self._take(min(found))
        return self._take(len(self._buffer) - held_back(self._buffer, self._stops))

    def flush(self) -> str:
        return "" if self.hit else self._take(len(self._buffer))

    def _take(self, size: int) -> str:
        text, self._buffer = self._buffer[:size], self._buffer[size:]
        return text


class ThinkingSplitter:
    """Splits `<think>…</think>answer` into (reasoning, answer); white space around the tags goes.

    `<think>` counts only as the first thing said, so that a model may write about the tag.
    `thinking`: the prompt itself has already opened it.
    """

    def __init__(self, *, thinking: bool) -> None:
        self._state = "reasoning" if thinking else "start"
        self._buffer = ""
        self._fresh = True  # nothing of this part has been given out: leading white space goes

    def feed(self, text: str) -> tuple[str, str]:
        self._buffer += text
        if self._state == "start":
            self._open()
        reasoning = self._reason() if self._state == "reasoning" else ""
        answer = self._answer() if self._state == "answer" else ""
        return reasoning, answer

    def flush(self) -> tuple[str, str]:
        rest, self._buffer = self._buffer, ""
        return (self._begun(rest).rstrip(), "") if self._state == "reasoning" else ("", rest)

    def _open(self) -> None:
        said = self._buffer.lstrip()
        if said.startswith(THINK):
            self._state, self._buffer = "reasoning", said[len(THINK) :]
        elif not THINK.startswith(said):
            self._state, self._fresh = "answer", False

    def _reason(self) -> str:
        before, tag, after = self._buffer.partition(END_THINK)
        if tag:
            text = self._begun(before).rstrip()
            self._state, self._buffer, self._fresh = "answer", after, True
            return text
        # white space at the end waits too: it goes if the tag follows
        solid = len(before[: len(before) - held_back(before, (END_THINK,))].rstrip())
        self._buffer = before[solid:]
        return self._begun(before[:solid])

    def _answer(self) -> str:
        text, self._buffer = self._buffer, ""
        return self._begun(text)

    def _begun(self, text: str) -> str:
        """`text` without the white space that leads its part."""
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text


class TextStream:
    """One sequence's way from token bytes to (reasoning, text). `stopped` after a stop string."""

    def __init__(self, *, stops: tuple[str, ...], thinks: bool, thinking: bool) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._splitter = ThinkingSplitter(thinking=thinking) if thinks else None
        self._stop = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        return self._stop.hit

    def feed(self, piece: bytes) -> tuple[str, str]:
        text = self._utf8.decode(piece)
        reasoning, answer = self._splitter.feed(text) if self._splitter else ("", text)
        return reasoning, self._stop.feed(answer)

    def flush(self) -> tuple[str, str]:
        """What was held back, once no more tokens come."""
        reasoning, answer = self.feed(b"")
        text = self._utf8.decode(b"", final=True)
        more_reasoning, more = self._splitter.feed(text) if self._splitter else ("", text)
        last_reasoning, last = self._splitter.flush() if self._splitter else ("", "")
        answer += self._stop.feed(more + last) + self._stop.flush()
        return reasoning + more_reasoning + last_reasoning, answer
