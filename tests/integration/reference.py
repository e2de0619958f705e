"""llama.cpp's own, single-sequence class as the judge of what an engine said."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from inference.protocol import ChatMessage

NOISE = 1.0  # logits: kernels for one row and for several add in another order; wrong contents are off by ten


class Reference:
    """One loaded model."""

    def __init__(self, gguf: Path, context: int = 1024) -> None:
        self._llama = llama_cpp.Llama(str(gguf), n_ctx=context, verbose=False, logits_all=True)
        template = self._llama.metadata["tokenizer.chat_template"]
        self._format = Jinja2ChatFormatter(template, eos_token="<|im_end|>", bos_token="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._llama.close()

    def prompt(self, messages: Sequence[ChatMessage]) -> list[int]:
        text = self._format(messages=[{"role": m.role, "content": m.content} for m in messages]).prompt
        return self._llama.tokenize(text.encode(), add_bos=False, special=True)

    def says(self, messages: Sequence[ChatMessage], tokens: int) -> str:
        """Its own greedy answer."""
        self._llama.reset()
        reply = self._llama.create_chat_completion(
            [{"role": m.role, "content": m.content} for m in messages],
            temperature=0, max_tokens=tokens, repeat_penalty=1.0,
        )  # fmt: skip
        return reply["choices"][0]["message"]["content"]

    def doubts(self, messages: Sequence[ChatMessage], answer: Sequence[int]) -> list[str]:
        """The places where a token of an answer was not the likeliest, but for rounding; empty is good."""
        prompt = self.prompt(messages)
        self._llama.reset()
        self._llama.eval([*prompt, *answer])
        rows = self._llama.scores[len(prompt) - 1 : len(prompt) + len(answer) - 1]
        short = rows.max(axis=1) - rows[np.arange(len(answer)), list(answer)]
        return [f"token {i}: {short[i]:.2f} below the best" for i in np.flatnonzero(short > NOISE)]
