"""The frames between the service and a worker: a 4-byte big-endian length, then one msgpack struct.

A worker dials out to the service, which answers with `Load`. From then on the service sends `Submit` and
`Cancel`; the worker sends `Step` (everything that one step of the model produced, for all sequences),
`Refused` and, once a second, `Beat`.
"""

import asyncio
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]
CacheTier = Literal["none", "stream", "host", "disk"]  # where a prompt's cached beginning was found
KvType = Literal["f16", "q8_0"]
MAX_FRAME = 64 * 1024 * 1024


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a conversation, as chat templates take it."""

    role: str
    content: str


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen. None: what the model's makers recommend."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


class Request(msgspec.Struct, frozen=True):
    """One answer to generate."""

    messages: tuple[ChatMessage, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool | None = None  # None: as the model's template does by itself
    drop_oldest: bool = False  # leave out the oldest turns where the whole history does not fit
    client: str = ""  # whose it is: clients take turns where more wait than can be answered


class EngineConfig(msgspec.Struct, frozen=True):
    """What a worker loads. None: as the memory that is there allows."""

    model: str  # the name that clients see
    path: str
    cache_dir: str  # where files derived from the model are kept
    kv_dir: str = ""  # where conversations' KV is kept over restarts; empty: nowhere
    context: int | None = None  # tokens
    slots: int | None = None  # sequences computed at once
    gpu_layers: int = -1
    kv_type: KvType | None = None
    threads: int = 0  # 0: the cores that this process may use
    disk_cache: int = 32 << 30  # bytes at most; never more than a tenth of what is free


class ModelInfo(msgspec.Struct, frozen=True):
    """What was loaded."""

    model: str
    description: str
    context: int
    slots: int
    thinks: bool  # its template knows thinking
    gpu: bool
    sizing: str = ""  # why this context and so many slots


class Usage(msgspec.Struct, frozen=True):
    """Tokens. `cached` of the prompt's were found in the KV cache, in `tier`; `dropped` messages were left out."""

    prompt: int
    cached: int
    completion: int
    dropped: int = 0
    tier: CacheTier = "none"
    queued: float = 0.0  # seconds until it had a slot


class Load(msgspec.Struct, frozen=True, tag=True):
    config: EngineConfig


class Submit(msgspec.Struct, frozen=True, tag=True):
    id: int
    request: Request
    resume: tuple[int, ...] = ()  # tokens that an earlier worker has already generated


class Cancel(msgspec.Struct, frozen=True, tag=True):
    id: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Keep the conversations, and end."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    fraction: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    info: ModelInfo


class LoadRefused(msgspec.Struct, frozen=True, tag=True):
    message: str


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """What a sequence gained in a step. Text may lag behind tokens (UTF-8, stop strings)."""

    id: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    reasoning: str = ""
    finish: FinishReason | None = None
    usage: Usage | None = None

    def followed_by(self, more: "Chunk") -> "Chunk":
        """Both as one."""
        tokens, text = self.tokens + more.tokens, self.text + more.text
        return Chunk(self.id, tokens, text, self.reasoning + more.reasoning, more.finish, more.usage)


class Step(msgspec.Struct, frozen=True, tag=True):
    chunks: tuple[Chunk, ...]


class Refused(msgspec.Struct, frozen=True, tag=True):
    id: int
    message: str
    too_long: bool = False


class Beat(msgspec.Struct, frozen=True, tag=True):
    """The worker's pulse: `steps` stands still when the model hangs."""

    steps: int
    active: int
    waiting: int


Command = Load | Submit | Cancel | Stop
Report = Progress | Loaded | LoadRefused | Step | Refused | Beat

_encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
report_decoder = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read_body(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's body; None at the end of the stream or on a frame that can't be one."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(size) if size <= MAX_FRAME else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
