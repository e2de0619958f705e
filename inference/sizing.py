"""How many conversations of which length a machine can hold: decided from the memory that is there, and why.

`plan` decides and is pure. The rest reads: the model's shape from its GGUF, the free memory of RAM and GPU.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from inference import gguf
from inference.errors import LoadFailed
from inference.protocol import KvType
from inference.scheduler import CPU_SHAPE, GPU_SHAPE

GIB = 1 << 30
MOST_STREAMS = 256  # LLAMA_MAX_SEQ
MARGIN = 64  # cells that a stream has beyond its context: rows that only fill a gap in a batch go there
SLOTS = (64, 48, 32, 24, 16, 12, 8, 4, 2, 1)
CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024)
USUAL_CPU, USUAL_GPU = 4096, 8192  # tokens a conversation
FEW = 8  # slots below which a GPU's conversations are shortened first


def cells(context: int) -> int:
    """Tokens that a conversation's stream has room for."""
    return -(-(context + MARGIN) // 256) * 256


@dataclass(frozen=True, slots=True)
class Shape:
    """A model: `weights` in bytes, the rest in elements."""

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int
    embedding: int
    vocab: int
    trained_context: int
    weights: int

    def kv_bytes(self, kv_type: KvType) -> float:
        """Bytes of keys and values a token."""
        values = self.layers * self.kv_heads * (self.key_dim + self.value_dim)
        return values * (2 if kv_type == "f16" else 34 / 32)

    def stream_bytes(self, context: int, kv_type: KvType) -> float:
        """Bytes of one conversation's stream."""
        return cells(context) * self.kv_bytes(kv_type)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    free: int
    name: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings fix. None: free to choose."""

    context: int | None = None
    slots: int | None = None
    kv_type: KvType | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`parked` conversations rest in the model's memory beside the slots; `host_cache` bytes of RAM keep more."""

    context: int
    slots: int
    parked: int
    kv_type: KvType
    host_cache: int
    kv_bytes: float  # a token
    reason: str


def plan(shape: Shape, gpu: Memory | None, ram: Memory, wishes: Wishes, *, cores: int) -> Plan:
    """The best that fits. Raises LoadFailed, with the figures, where nothing does.

    On CPUs, 2 slots a core (4 to 16) of up to 4,096 tokens: first slots give way, then context, then f16. On a
    GPU, up to 64 slots of 8,192 tokens, longer ones where those fit: below 8 slots context gives way first, then
    f16. Free memory beyond that holds parked conversations on a GPU, and a quarter of free RAM holds idle ones.
    """
    memory, working = gpu or ram, _working(shape, gpu=gpu is not None)
    room = memory.free * (1.0 if gpu else 0.8) - working - shape.weights
    for context, slots, kv_type in _candidates(shape, wishes, cores=cores, gpu=gpu is not None):
        stream = shape.stream_bytes(context, kv_type)
        left = room - slots * stream
        if left >= 0:
            parked = min(3 * slots, MOST_STREAMS - slots, int(left / 2 / stream)) if gpu else 0
            spare = ram.free if gpu else int(left)
            host = min(spare // 4, (16 if gpu else 8) * GIB)
            reason = (
                f"{memory.name} with {_gib(memory.free)} free: {_gib(shape.weights)} weights, {slots} conversations "
                f"of {context:,} tokens at once in {_gib(slots * stream)} ({kv_type})"
                + (f", {parked} more at rest" if parked else "") + f"; {_gib(host)} of RAM for idle ones"
            )  # fmt: skip
            return Plan(context, slots, parked, kv_type, int(host), shape.kv_bytes(kv_type), reason)
    raise LoadFailed(_refusal(shape, memory, room, working, wishes))


def _working(shape: Shape, *, gpu: bool) -> int:
    """What computing takes beside weights and KV: buffers for a pass and for the logits, and some slack."""
    rows = (GPU_SHAPE if gpu else CPU_SHAPE).most
    return 600 * 1024 * 1024 + rows * shape.embedding * 4 * 24 if shape.embedding > 1024 else 200 * 1024 * 1024


def _candidates(shape: Shape, wishes: Wishes, *, cores: int, gpu: bool) -> list[tuple[int, int, KvType]]:
    """What to try, best first."""
    usual = min(shape.trained_context, USUAL_GPU if gpu else USUAL_CPU)
    most = 64 if gpu else min(16, max(4, 2 * cores))
    contexts = [wishes.context] if wishes.context else [usual, *(c for c in CONTEXTS if 2048 <= c < usual)]
    slots = [wishes.slots] if wishes.slots else [most, *(s for s in SLOTS if s < most)]
    kv_types: list[KvType] = [wishes.kv_type] if wishes.kv_type else ["f16", "q8_0"]
    every = [(c, s, k) for k in kv_types for c in contexts for s in slots]
    if not gpu:
        return sorted(every, key=lambda x: (kv_types.index(x[2]), -x[0] if x[1] >= 2 else 0, -x[1]))
    longer = [c for c in CONTEXTS if usual < c <= shape.trained_context] if not wishes.context else []
    return [
        *((c, s, k) for k in kv_types[:1] for c in longer for s in slots[:1]),
        *(x for x in every if x[1] >= FEW),
        *(x for x in every if x[1] < FEW),
    ]


def _refusal(shape: Shape, memory: Memory, room: float, working: int, wishes: Wishes) -> str:
    """One line: what is needed, what there is, and what would fit."""
    kv_type = wishes.kv_type or "q8_0"
    context, slots = wishes.context or 2048, wishes.slots or 1
    stream = shape.stream_bytes(context, kv_type)
    head = (
        f"{memory.name} has {_gib(memory.free)} free and the model needs {_gib(shape.weights + working)} "
        f"before the first conversation"
    )
    if room <= 0:
        return f"{head}: free some memory, or choose a smaller model."
    fitting = int(room / stream)
    cure = f"model.slots = {fitting} would fit" if fitting else "lower model.context, or set model.kv_type to q8_0"
    return f"{head}; {slots} of {context:,} tokens take {_gib(slots * stream)} more ({kv_type}): {cure}."


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def read_shape(path: Path) -> Shape:
    """A model's shape from its file's header. Raises LoadFailed where it is not one that can be understood."""
    header = gguf.read_header(path)
    architecture = header.text("general.architecture")
    heads = header.number(f"{architecture}.attention.head_count")
    embedding = header.number(f"{architecture}.embedding_length")
    head_dim = embedding // max(1, heads)
    return Shape(
        layers=header.number(f"{architecture}.block_count"),
        kv_heads=header.number(f"{architecture}.attention.head_count_kv", heads),
        key_dim=header.number(f"{architecture}.attention.key_length", head_dim),
        value_dim=header.number(f"{architecture}.attention.value_length", head_dim),
        embedding=embedding,
        vocab=header.lengths.get("tokenizer.ggml.tokens", 0),
        trained_context=header.number(f"{architecture}.context_length"),
        weights=sum(part.stat().st_size for part in gguf.parts(path)),
    )


def read_ram(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Free memory: what the system has available, or less where a container's limit leaves less."""
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):  # fmt: skip
        try:
            most = int((cgroup / limit).read_text())
            free, total = min(free, max(0, most - int((cgroup / used).read_text()))), min(total, most)
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return Memory(total, free, "RAM")


def read_gpu() -> Memory | None:
    """The first GPU that this process may use, by NVML; None where there is none, or no NVML."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        by_name = visible.startswith(("GPU-", "MIG-"))
        handle = (
            pynvml.nvmlDeviceGetHandleByUUID(visible) if by_name else pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        )
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
    except (pynvml.NVMLError, ValueError):
        return None
    return Memory(int(memory.total), int(memory.free), name if isinstance(name, str) else name.decode())
