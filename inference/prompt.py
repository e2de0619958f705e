"""Messages to tokens, by the chat template that the GGUF carries.

The template is a program from a downloaded file, so it runs in Jinja2's immutable sandbox. What people write
is never taken for control tokens: somebody who types `<|im_end|>` has typed seven characters of text.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.errors import InvalidRequest, PromptTooLong
from inference.llama import Vocabulary
from inference.protocol import ChatMessage, Request

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUANTUM = 8  # history is left out by this many messages at a time, so that the next turns share a prefix
QUOTED = re.compile("\ufdd0([0-9]+)\ufdd1")  # noncharacters: no text in a prompt has a use for them


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def compile_template(source: str) -> jinja2.Template:
    """A chat template in the sandbox, with what templates of the transformers library may call."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().astimezone().strftime(pattern)
    return environment.from_string(source)


class Prompter:
    """Renders and tokenises requests for one model."""

    def __init__(self, template: str, vocabulary: Vocabulary, context: int) -> None:
        self._template = compile_template(template or CHATML)
        self._vocabulary = vocabulary
        self._context = context
        controls = "|".join(map(re.escape, vocabulary.control_texts))
        self._controls = re.compile(controls) if controls else None

    def build(self, request: Request) -> tuple[list[int], int, bool]:
        """(prompt tokens, messages left out, whether the prompt has already opened the thinking).

        Raises PromptTooLong where it does not fit, InvalidRequest where the template refuses the messages.
        """
        reserve = min(request.max_tokens or self._context // 4, self._context // 4)
        limit = self._context - (reserve if request.drop_oldest else 1)
        for dropped, messages in self._shorter(request):
            text = self.render(messages, request.thinking)
            tokens = self.tokenize(text)
            if len(tokens) <= limit:
                return tokens, dropped, text.rstrip().endswith("<think>")
        if len(tokens) < self._context:  # the newest message alone: it may use the reserve
            return tokens, dropped, text.rstrip().endswith("<think>")
        raise PromptTooLong(tokens=len(tokens), limit=self._context)

    @staticmethod
    def _shorter(request: Request) -> list[tuple[int, Sequence[ChatMessage]]]:
        """The messages, and then ever fewer of them: whole turns go from the oldest on, never the newest."""
        messages = request.messages
        head = 1 if messages and messages[0].role == "system" else 0
        old = len(messages) - head - 1
        steps = [*range(0, old, QUANTUM), old] if request.drop_oldest and old > 0 else [0]
        return [(drop, (*messages[:head], *messages[head + drop :])) for drop in steps]

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
