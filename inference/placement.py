"""Where a sequence computes, and which cache it starts from: the cheapest of what there is, in seconds. Pure.

A conversation may lie in a slot, in a parked stream, or in a snapshot; another's leading tokens (a shared system
prompt) may be copied from any stream, also from one in use. Reading a snapshot is not always quicker than
computing it again: a GPU prefills faster than many disks read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from inference.kvstore import Found
from inference.sequence import Sequence, Stream, common_prefix

LEAST = 16  # tokens that a copy must gain
NEAR = 8  # slots above the lowest free one that are as good as it


@dataclass(frozen=True, slots=True)
class Costs:
    """What this machine was seen to do."""

    prefill: float  # tokens a second
    copy: float  # seconds from stream to stream
    host: float  # bytes a second from host memory
    disk: float  # bytes a second from disk into host memory


@dataclass(frozen=True, slots=True)
class Placement:
    """The slot's stream, what is brought into it (None: what it already holds), and how many tokens that shares."""

    stream: Stream
    source: Stream | Found | None
    shared: int
    own: bool  # the source, or the stream itself, is this very conversation's
    home: bool  # the stream is: what it holds is not another's


def is_own(stream: Stream, shared: int) -> bool:
    """Whether a stream that shares so many tokens is the conversation's own: most of what it holds goes on.

    A shared system prompt alone is no reason to overwrite another conversation.
    """
    return not stream.busy and 2 * shared >= stream.length > 0


def place(sequence: Sequence, streams: Iterable[Stream], slots: int, found: Found | None, costs: Costs, *,
          compact: bool = False) -> Placement:  # fmt: skip
    """The quickest way to this sequence's first token. At least one of the first `slots` streams must be free.

    `compact`: rows of one batch should be neighbours, so the lowest slot is taken, and a conversation that lies
    far above those that compute moves down.
    """
    tokens = sequence.begun
    shares = [(common_prefix(stream.contents, tokens), stream) for stream in streams]
    free = [stream for _, stream in shares if stream.index < slots and not stream.busy]
    own = [(shared, stream) for shared, stream in shares if is_own(stream, shared)]
    near = free[0].index + NEAR if compact else slots
    home = max((item for item in own if item[1].index < min(near, slots)), key=lambda x: x[0], default=(0, None))[1]
    target = home or min(free, key=lambda s: s.index if compact else (s.length > 0, s.used, s.index))
    in_place = next(shared for shared, stream in shares if stream is target)
    options: list[tuple[float, int, Stream | Found | None]] = [(0.0, in_place, None)]
    shared, source = max(shares, key=lambda item: item[0])
    if source is not target and shared >= in_place + LEAST:
        options.append((costs.copy, shared, source))
    if found:
        seconds = found.size / costs.host + (found.size / costs.disk if found.tier == "disk" else 0.0)
        options.append((seconds, found.shared, found))
    _, shared, source_ = min(options, key=lambda option: option[0] + (len(tokens) - option[1]) / costs.prefill)
    belongs = home is not None if source_ is None else isinstance(source_, Stream) and is_own(source_, shared)
    return Placement(target, source_, shared, belongs, home is not None)
