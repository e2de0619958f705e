"""llama.cpp: the one place that calls it. One thread owns a `Model`; only `Sampler.sample` may run on others.

The batch is filled through numpy views over llama_batch: setting ctypes fields one by one costs a millisecond
for 512 tokens. ctypes lets go of the GIL during each call.
"""

import ctypes
import os
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from functools import cached_property
from typing import Any

import llama_cpp as ll
import numpy as np

from inference.errors import DecodeFailed, LoadFailed
from inference.protocol import EngineConfig, ModelInfo
from inference.sampling import Choice

FLASH_ATTENTION_AUTO = -1
KV_TYPES = {"f16": ll.GGML_TYPE_F16, "q8_0": ll.GGML_TYPE_Q8_0}
WARNING = 3  # ggml_log_level: 1 debug, 2 info, 3 warning, 4 error

complaints: list[str] = []  # llama.cpp's newest warnings and errors: why a load failed


@ll.llama_log_callback
def _on_log(level: int, text: bytes, _data: Any) -> None:
    if level >= WARNING and (line := text.decode("utf-8", "replace").strip(" .\n")):
        complaints.append(line)
        del complaints[:-20]


def usable_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Sampler:
    """One sequence's sampler chain."""

    def __init__(self, context: Any, choice: Choice, n_vocab: int) -> None:
        self._context = context
        self._chain = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
        for link in self._links(choice, n_vocab):
            ll.llama_sampler_chain_add(self._chain, link)

    @staticmethod
    def _links(choice: Choice, n_vocab: int) -> list[Any]:
        # top_k first: everything after it then looks at a few candidates, not at the whole vocabulary
        links = [ll.llama_sampler_init_top_k(choice.top_k)]
        if choice.presence_penalty or choice.frequency_penalty:
            penalty = (n_vocab, -1, 1.0, choice.frequency_penalty, choice.presence_penalty)
            links.append(ll.llama_sampler_init_penalties(*penalty))
        if choice.temperature <= 0:
            return [*links, ll.llama_sampler_init_greedy()]
        return [
            *links,
            ll.llama_sampler_init_top_p(choice.top_p, 1),
            ll.llama_sampler_init_min_p(choice.min_p, 1),
            ll.llama_sampler_init_temp(choice.temperature),
            ll.llama_sampler_init_dist(choice.seed),
        ]

    def sample(self, row: int) -> int:
        """The next token after batch row `row`. Different chains may sample in different threads."""
        return int(ll.llama_sampler_sample(self._chain, self._context, row))

    def accept(self, token: int) -> None:
        ll.llama_sampler_accept(self._chain, token)

    def free(self) -> None:
        if self._chain:
            ll.llama_sampler_free(self._chain)
            self._chain = None


class Vocabulary:
    """Text to token ids and ids to bytes. Its methods may be called from any thread."""

    def __init__(self, model: Any) -> None:
        self._vocab = ll.llama_model_get_vocab(model)
        self.size = int(ll.llama_vocab_n_tokens(self._vocab))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids of `text`; with `special`, control tokens that are written out in it count as such."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        buffer = (ll.llama_token * room)()
        count = ll.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, special)
        return list(buffer[: max(count, 0)])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; control tokens are empty unless `special`."""
        if not special and (known := self._pieces.get(token)) is not None:
            return known
        buffer = ctypes.create_string_buffer(256)
        size = ll.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = ll.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        raw = buffer.raw[: max(size, 0)]
        if not special:
            self._pieces[token] = raw
        return raw

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(ll.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """How the control tokens are written, longest first."""
        control = (i for i in range(self.size) if ll.llama_vocab_is_control(self._vocab, i))
        texts = {self.piece(i, special=True).decode("utf-8", "replace") for i in control}
        return tuple(sorted(filter(None, texts), key=len, reverse=True))

    def special_text(self, kind: str) -> str:
        """The text of the "bos" or "eos" token, for templates; empty where there is none."""
        token = (ll.llama_vocab_bos if kind == "bos" else ll.llama_vocab_eos)(self._vocab)
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


class Model:
    """A model with its context and one batch."""

    def __init__(self, config: EngineConfig, on_progress: Callable[[float], None]) -> None:
        ll.llama_log_set(_on_log, None)
        ll.llama_backend_init()
        self.config = config
        self._model = self._load(config, on_progress)
        self.vocabulary = Vocabulary(self._model)
        trained = int(ll.llama_model_n_ctx_train(self._model))
        self.context = min(config.context, trained)
        self.gpu = bool(ll.llama_supports_gpu_offload()) and config.gpu_layers != 0
        self._context = self._open_context()
        self._memory = ll.llama_get_memory(self._context)
        self._init_batch()

    @staticmethod
    def _load(config: EngineConfig, on_progress: Callable[[float], None]) -> Any:
        @ll.llama_progress_callback
        def report(fraction: float, _data: Any) -> bool:
            on_progress(fraction)
            return True

        params = ll.llama_model_default_params()
        params.n_gpu_layers = config.gpu_layers if config.gpu_layers >= 0 else 999
        params.progress_callback = report
        complaints.clear()
        if model := ll.llama_model_load_from_file(config.path.encode(), params):
            return model
        reason = "; ".join(complaints[-2:]) or "llama.cpp gave no reason"
        raise LoadFailed(f"{config.path} can't be loaded: {reason}.")

    def _open_context(self) -> Any:
        config, params = self.config, ll.llama_context_default_params()
        params.n_ctx = self.context * config.slots  # each sequence has a stream of its own
        params.kv_unified = False
        params.n_seq_max = config.slots
        params.n_batch = params.n_ubatch = max(config.batch, config.slots)
        params.n_outputs_max = config.slots
        params.flash_attn_type = FLASH_ATTENTION_AUTO
        params.type_k = params.type_v = KV_TYPES[config.kv_type]
        params.n_threads = params.n_threads_batch = config.threads or usable_threads()
        complaints.clear()
        if context := ll.llama_init_from_model(self._model, params):
            return context
        raise LoadFailed(
            f"no memory for {config.slots} conversations of {self.context} tokens: lower model.slots or "
            f"model.context, or set model.kv_type to q8_0 ({'; '.join(complaints[-2:])})."
        )

    def _init_batch(self) -> None:
        size = max(self.config.batch, self.config.slots)
        self._batch = batch = ll.llama_batch_init(size, 0, 1)
        self._token = np.ctypeslib.as_array(batch.token, (size,))
        self._pos = np.ctypeslib.as_array(batch.pos, (size,))
        self._wanted = np.ctypeslib.as_array(batch.logits, (size,))
        np.ctypeslib.as_array(batch.n_seq_id, (size,))[:] = 1
        self._seq = np.zeros(size, np.int32)
        base = self._seq.ctypes.data
        for row in range(size):
            pointer = ctypes.cast(base + 4 * row, ctypes.POINTER(ll.llama_seq_id))
            batch.seq_id[row] = pointer
        self._rows = 0

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            model=self.config.model,
            description=self.metadata("general.name") or self.config.model,
            context=self.context,
            slots=self.config.slots,
            thinks="<think>" in self.chat_template,
            gpu=self.gpu,
        )

    @cached_property
    def chat_template(self) -> str:
        return self.metadata("tokenizer.chat_template")

    def metadata(self, key: str) -> str:
        """A string of the GGUF's header; empty where it has none."""
        size = ll.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size <= 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        ll.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def sampler(self, choice: Choice) -> Sampler:
        return Sampler(self._context, choice, self.vocabulary.size)

    def truncate(self, slot: int, length: int) -> None:
        """Forgets what the slot holds after its first `length` tokens."""
        if not ll.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise DecodeFailed

    def add(self, slot: int, tokens: Tokens[int], position: int, *, last: bool) -> int:
        """Adds tokens of one sequence to the batch; returns the row of the last one."""
        start, end = self._rows, self._rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = np.arange(position, position + len(tokens), dtype=np.int32)
        self._seq[start:end] = slot
        self._wanted[start:end] = 0
        self._wanted[end - 1] = last
        self._rows = end
        return end - 1

    def decode(self) -> None:
        """Computes the batch. On a GPU it returns before that is done; the first sample waits for it."""
        self._batch.n_tokens, self._rows = self._rows, 0
        if code := ll.llama_decode(self._context, self._batch):
            raise DecodeFailed(f"llama_decode returned {code}: {'; '.join(complaints[-2:])}")

    def synchronize(self) -> None:
        ll.llama_synchronize(self._context)
