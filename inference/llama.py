"""llama.cpp: the one place that calls it. One thread owns a `Model`.

The batch is filled through numpy views over llama_batch: setting ctypes fields one by one costs a millisecond
for 512 tokens. ctypes lets go of the GIL during each call.

Each sequence has a KV stream of its own (docs/decisions/0002). llama.cpp joins rows into one pass only where
their streams are neighbours and give equally many tokens; whoever fills a batch must mind that.
"""

import ctypes
import os
import time
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np
import numpy.typing as npt

from inference.errors import DecodeFailed, LoadFailed
from inference.protocol import EngineConfig, ModelInfo
from inference.sampling import NARROW, Floats, Ids, likeliest
from inference.scheduler import BLOCK, CPU_SHAPE, GPU_SHAPE
from inference.sizing import Plan, cells
from inference.weights import digest

NO_FLASH, FLASH = 0, 1  # llama_flash_attn_type
ON_HOST = 0  # llama_state_seq_flags
DRAFT = 7  # tokens at most that are guessed ahead for a sequence: with them a row of 8, which small kernels still take
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


def llama_gpu() -> bool:
    """Whether this build of llama.cpp can use a GPU."""
    return bool(ll.llama_supports_gpu_offload())


class Vocabulary:
    """Text to token ids and ids to bytes. Its methods may be called from any thread."""

    def __init__(self, model: Any) -> None:
        self._vocab = ll.llama_model_get_vocab(model)
        self.size = int(ll.llama_vocab_n_tokens(self._vocab))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

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
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(ll.llama_vocab_is_eog(self._vocab, token))
        return known

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

    def __init__(self, config: EngineConfig, plan: Plan, on_progress: Callable[[float], None]) -> None:
        ll.llama_log_set(_on_log, None)
        ll.llama_backend_init()
        self.config = config
        self.plan = plan
        self.slots, self.parked = plan.slots, plan.parked
        self._model = self._load(config, on_progress)
        self.vocabulary = Vocabulary(self._model)
        trained = int(ll.llama_model_n_ctx_train(self._model))
        self.context = min(plan.context, trained)
        self.gpu = llama_gpu() and config.gpu_layers != 0
        self.shape = GPU_SHAPE if self.gpu else CPU_SHAPE
        self._width = max(self.shape.most, self.slots + DRAFT)
        self._chains: list[Any] = []  # a sampler chain a slot, on a GPU
        self._wide: set[int] = set()  # the slots whose chain is taken off
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
        params.n_ctx = cells(self.context) * (self.slots + self.parked)
        params.kv_unified = False
        params.n_seq_max = self.slots + self.parked
        params.n_batch = params.n_ubatch = self._width
        params.n_outputs_max = self.slots + max(self.parked, DRAFT)  # llama.cpp wants one a stream
        params.n_outputs_max_per_seq = 1 + DRAFT
        # on CPUs its sums depend on how a prompt was cut, so a cached one would not equal a fresh one (decision 0003)
        params.flash_attn_type = FLASH if self.gpu or self.plan.kv_type != "f16" else NO_FLASH
        params.type_k = params.type_v = KV_TYPES[self.plan.kv_type]
        params.n_threads = params.n_threads_batch = config.threads or usable_threads()
        if self.gpu:
            self._attach_samplers(params)
        complaints.clear()
        if context := ll.llama_init_from_model(self._model, params):
            return context
        raise LoadFailed(
            f"no memory for {self.slots} conversations of {self.context} tokens: lower model.slots or "
            f"model.context, or set model.kv_type to q8_0 ({'; '.join(complaints[-2:])})."
        )

    def _attach_samplers(self, params: Any) -> None:
        """The GPU finds each row's likeliest tokens itself: copying and searching whole rows costs more."""
        count = self.slots
        self._configs = (ll.llama_sampler_seq_config * count)()
        for stream in range(count):
            chain = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
            ll.llama_sampler_chain_add(chain, ll.llama_sampler_init_top_k(NARROW))
            self._chains.append(chain)
            self._configs[stream].seq_id = stream
            self._configs[stream].sampler = ctypes.cast(chain, ctypes.c_void_p)
        params.samplers = ctypes.cast(self._configs, ctypes.POINTER(ll.llama_sampler_seq_config))
        params.n_samplers = count

    def _init_batch(self) -> None:
        size = self._width
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
        self._rows = self._outputs = self._last_outputs = 0
        self._copied: int | None = None  # the target of a copy that llama.cpp has not made yet

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            model=self.config.model,
            description=self.metadata("general.name") or self.config.model,
            context=self.context,
            slots=self.slots,
            thinks="<think>" in self.chat_template,
            gpu=self.gpu,
            sizing=self.plan.reason,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that a conversation's keys and values depend on."""
        return f"{ll.__version__} {digest(Path(self.config.path))} {self.plan.kv_type} gpu={self.gpu}"

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

    def close(self) -> None:
        """Gives the memory back."""
        ll.llama_free(self._context)
        ll.llama_model_free(self._model)

    def truncate(self, stream: int, length: int) -> None:
        """Forgets what the stream holds after its first `length` tokens."""
        if not ll.llama_memory_seq_rm(self._memory, stream, length, -1):
            raise DecodeFailed

    def add(self, stream: int, tokens: Tokens[int], position: int) -> None:
        """Adds tokens of one stream to the batch; none of them gives candidates."""
        start, end = self._rows, self._rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = np.arange(position, position + len(tokens), dtype=np.int32)
        self._seq[start:end] = stream
        self._wanted[start:end] = 0
        self._rows = end

    def add_rows(self, streams: Tokens[int], tokens: Tokens[int], positions: Tokens[int]) -> None:
        """Adds a token each that gives candidates."""
        start, end = self._rows, self._rows + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = positions
        self._seq[start:end] = streams
        self._wanted[start:end] = 1
        self._rows, self._outputs = end, self._outputs + len(tokens)

    def decode(self) -> None:
        """Computes the batch. On a GPU it returns before that is done; `candidates` waits for it."""
        self._batch.n_tokens, self._rows = self._rows, 0
        self._last_outputs, self._outputs = self._outputs, 0
        self._copied = None
        if code := ll.llama_decode(self._context, self._batch):
            raise DecodeFailed(f"llama_decode returned {code}: {'; '.join(complaints[-2:])}")

    def synchronize(self) -> None:
        ll.llama_synchronize(self._context)

    def widen(self, slot: int, *, wide: bool) -> None:
        """Whether the slot needs more candidates than the GPU gives. A change costs some milliseconds."""
        if self._chains and wide != (slot in self._wide):
            ll.llama_set_sampler(self._context, slot, None if wide else self._chains[slot])
            (self._wide.add if wide else self._wide.discard)(slot)

    def candidates(self, outputs: list[int], count: int) -> tuple[Floats, Ids]:
        """The likeliest tokens after the given outputs of the last batch: (logits, ids), both [n, count].

        `outputs` count through the batch. `count` is NARROW, or WIDE for slots that were widened.
        """
        if not self._chains or count > NARROW:
            rows = self._view(ll.llama_get_logits(self._context), np.float32, self.vocabulary.size)
            return likeliest(rows[outputs], count)
        first = outputs[0] - self._last_outputs  # llama.cpp counts negative rows from the last output
        logits = self._view(ll.llama_get_sampled_logits_ith(self._context, first), np.float32, NARROW, outputs[0])
        ids = self._view(ll.llama_get_sampled_candidates_ith(self._context, first), np.int32, NARROW, outputs[0])
        return logits[outputs], ids[outputs]

    def _view(self, pointer: Any, kind: Any, width: int, ahead: int = 0) -> Any:
        """[outputs, width] over rows that lie a vocabulary apart; `ahead` rows lie before the pointer."""
        stride = 4 * self.vocabulary.size
        address = ctypes.addressof(pointer.contents) - ahead * stride
        flat = np.frombuffer(
            memoryview((ctypes.c_char * (stride * self._last_outputs)).from_address(address)), dtype=kind
        )
        return flat.reshape(self._last_outputs, -1)[:, :width]

    def snapshot(self, stream: int) -> "State":
        """The stream's keys and values, to be kept anywhere."""
        self._settle()
        size = ll.llama_state_seq_get_size_ext(self._context, stream, ON_HOST)
        state = np.empty(size, np.uint8)
        written = ll.llama_state_seq_get_data_ext(self._context, _bytes(state), size, stream, ON_HOST)
        if written != size:
            raise DecodeFailed(f"a snapshot has {written} of {size} bytes")
        return state

    def restore(self, stream: int, state: "State", length: int) -> bool:
        """Puts a snapshot of `length` tokens into a stream; False, and an empty stream, where it does not fit."""
        self._settle()
        read = ll.llama_state_seq_set_data_ext(self._context, _bytes(state), state.size, stream, ON_HOST)
        whole = ll.llama_memory_seq_pos_max(self._memory, stream) == length - 1
        if read != state.size or not whole or ll.llama_memory_seq_pos_min(self._memory, stream) != 0:
            self.truncate(stream, 0)
            return False
        return True

    def copy(self, source: int, target: int) -> None:
        """Copies all of one stream over another. The source may be in use; cut the target to what you want."""
        if not self.gpu:  # the used cells alone: a whole stream's memory takes longer than they do
            state = self.snapshot(source)
            self.restore(target, state, ll.llama_memory_seq_pos_max(self._memory, source) + 1)
            return
        ll.llama_memory_seq_rm(self._memory, target, -1, -1)
        ll.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._copied = target

    def warm_up(self) -> float:
        """Lets llama.cpp load its kernels and take its buffers; seconds that a copy of a stream takes on a GPU.

        All streams must be unused. The first passes of every shape are several times as slow as later ones, and on
        a GPU each eighth row is another shape.
        """
        prompt = [0] * min(640 if self.gpu else 16, self.context)
        self.add(0, prompt, 0)
        self.decode()
        copying = self._time_copy(len(prompt)) if self.gpu and self.slots > 1 else 0.0
        self._empty()
        for rows in range(min(self.slots, BLOCK), self.slots + 1, BLOCK) if self.gpu else (1,):
            for position in range(3):  # the third replays a CUDA graph
                self.add_rows(range(rows), [0] * rows, [position] * rows)
                self.decode()
            self._empty()
        for count in (32, 64, 128, 256) if self.gpu and self.context > 480 else ():
            self.add(0, [0] * count, count - 32)
            self.decode()
        self._empty()
        for together in (2, 3, 4) if self.gpu and self.context > 512 and self.slots >= 4 else ():
            for stream in range(together):
                self.add(stream, [0] * 512, 0)
            self.decode()
            self._empty()
        return copying

    def _empty(self) -> None:
        for stream in range(self.slots):
            self.truncate(stream, 0)

    def _time_copy(self, position: int) -> float:
        def seconds(position: int, *, copying: bool) -> float:
            began = time.perf_counter()
            if copying:
                self.copy(0, 1)
            self.add(0, [0], position)
            self.decode()
            self.synchronize()
            return time.perf_counter() - began

        plain = min(seconds(position + i, copying=False) for i in range(4))
        copying = min(seconds(position + 4 + i, copying=True) for i in range(3))
        return max(copying - plain, 1e-4)

    def _settle(self) -> None:
        """llama.cpp makes copies of streams at its next decode; a snapshot must see them, a restore come after."""
        if self._copied is None:
            return
        stream, end = self._copied, ll.llama_memory_seq_pos_max(self._memory, self._copied) + 1
        self.add(stream, [0], end)
        self.decode()
        self.truncate(stream, end)


State = npt.NDArray[np.uint8]


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
