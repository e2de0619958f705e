"""Messages to tokens, by the chat template that the GGUF carries.

The template is a program from a downloaded file, so it runs in Jinja2's immutable sandbox. What people write
is never taken for control tokens: somebody who types `<|im_end|>` has typed seven characters of text.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.errors import InvalidRequest, PromptTooLong
from inference.llama import Vocabulary
from inference.protocol import ChatMessage, Request
from inference.sequence import as_tokens, common_prefix

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUANTUM = 8  # history is left out by this many messages at a time, so that the next turns share a prefix
SHORT = 8  # characters for each token of room: what is longer is not worth trying whole
QUOTED = re.compile("\ufdd0([0-9]+)\ufdd1")  # noncharacters: no text in a prompt has a use for them


def _head(messages: Sequence[ChatMessage]) -> int:
    """How many messages come before those that people exchange."""
    return 1 if messages and messages[0].role == "system" else 0


def _without(messages: Sequence[ChatMessage], oldest: int) -> Sequence[ChatMessage]:
    """The messages without so many of the oldest that people exchanged."""
    head = _head(messages)
    return (*messages[:head], *messages[head + oldest :])


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def compile_template(source: str) -> jinja2.Template:
    """A chat template in the sandbox, with what templates of the transformers library may call."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().astimezone().strftime(pattern)
    return environment.from_string(source)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request.

    `opening`: the leading tokens that tell a conversation from others, up to its first answer. `dropped`: messages
    left out. `thinking`: whether it has already opened the thinking.
    """

    tokens: list[int]
    opening: int
    dropped: int
    thinking: bool


class Prompter:
    """Renders and tokenises requests for one model."""

    def __init__(self, template: str, vocabulary: Vocabulary, context: int) -> None:
        self._template = compile_template(template or CHATML)
        self._vocabulary = vocabulary
        self._context = context
        controls = "|".join(map(re.escape, vocabulary.control_texts))
        self._controls = re.compile(controls) if controls else None

    def build(self, request: Request) -> Prompt:
        """Raises PromptTooLong where it does not fit, InvalidRequest where the template refuses the messages."""
        reserve = min(request.max_tokens or self._context // 4, self._context // 4)
        limit = self._context - (reserve if request.drop_oldest else 1)
        prompt = self._fitting(request, limit)
        if len(prompt.tokens) >= self._context:  # the newest message alone may use the reserve
            raise PromptTooLong(tokens=len(prompt.tokens), limit=self._context)
        return replace(prompt, opening=self._opening(request, prompt))

    def _fitting(self, request: Request, limit: int) -> Prompt:
        """With as few messages left out as it takes: whole turns go from the oldest on, never the newest.

        Most of a long history does not fit, so the search begins at its end: it must not cost more the longer the
        history is.
        """
        head, messages = _head(request.messages), request.messages
        old = len(messages) - head - 1
        steps = [*range(0, old, QUANTUM), old] if request.drop_oldest and old > 0 else [0]
        rendered: dict[int, Prompt] = {}

        def prompt(step: int) -> Prompt:
            if step not in rendered:
                text = self.render(_without(messages, step), request.thinking)
                rendered[step] = Prompt(self.tokenize(text), 0, step, text.rstrip().endswith("<think>"))
            return rendered[step]

        def fits(step: int) -> bool:
            return len(prompt(step).tokens) <= limit

        if len(steps) == 1 or (sum(len(message.content) for message in messages) <= SHORT * limit and fits(0)):
            return prompt(0)
        too_many, best, stride = -1, len(steps) - 1, 1
        while best > 0 and too_many < 0:
            tried = max(0, best - stride)
            if fits(steps[tried]):
                best, stride = tried, 2 * stride
            else:
                too_many = tried
        return prompt(steps[bisect_left(steps, True, too_many + 1, best, key=fits)])

    def _opening(self, request: Request, prompt: Prompt) -> int:
        messages = _without(request.messages, prompt.dropped)
        first = messages[: _head(messages) + 1]
        if len(first) == len(messages):
            return len(prompt.tokens)
        try:
            alone = self.tokenize(self.render(first, request.thinking))
        except InvalidRequest:  # some templates want more of a conversation than its beginning
            return len(prompt.tokens)
        return common_prefix(as_tokens(alone), as_tokens(prompt.tokens))

    def render(self, messages: Sequence[ChatMessage], thinking: bool | None) -> str:
        """The prompt's text, control tokens in people's texts replaced by numbered marks."""
        quote = self._quote()
        switch = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._template.render(
                messages=[{"role": m.role, "content": quote(m.content)} for m in messages],
                add_generation_prompt=True,
                bos_token=self._vocabulary.special_text("bos"),
                eos_token=self._vocabulary.special_text("eos"),
                **switch,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {error}") from error

    def _quote(self) -> Callable[[str], str]:
        controls, texts = self._controls, self._vocabulary.control_texts

        def mark(match: re.Match[str]) -> str:
            return f"\ufdd0{texts.index(match[0])}\ufdd1"

        def quote(content: str) -> str:
            content = QUOTED.sub("", content)
            return controls.sub(mark, content) if controls else content

        return quote

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a rendered prompt; a mark becomes the characters that somebody typed."""
        tokens: list[int] = []
        for index, part in enumerate(QUOTED.split(text)):
            typed = index % 2 == 1
            piece = self._vocabulary.control_texts[int(part)] if typed else part
            if piece:
                tokens += self._vocabulary.tokenize(piece, special=not typed)
        return tokens
