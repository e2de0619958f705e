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


def is_own(stream: Stream, shared: int, opening: int) -> bool:
    """Whether a stream that shares so many tokens is a conversation's own: its opening, or all that it holds, goes on.

    A system prompt that many share, however long, is no reason to overwrite another conversation.
    """
    return not stream.busy and (shared >= opening > 0 or shared == stream.length > 0)


def _near(busy: list[int], lowest: int) -> int:
    """The slot from which on a conversation would make the batch longer than what it holds is worth."""
    mostly_busy = 2 * len(busy) > busy[-1] if busy else False
    return max(lowest + NEAR, busy[-1] + 1 if mostly_busy else 0)


def place(sequence: Sequence, streams: Iterable[Stream], slots: int, found: Found | None, costs: Costs, *,
          compact: bool = False) -> Placement:  # fmt: skip
    """The quickest way to this sequence's first token. At least one of the first `slots` streams must be free.

    `compact`: rows of one batch should be neighbours, so one of the lowest slots is taken, and a conversation that
    lies far above those that compute moves down. Where most of what lies below it computes anyway, it stays.
    """
    tokens = sequence.begun
    shares = [(common_prefix(stream.contents, tokens), stream) for stream in streams]
    own = [(shared, stream) for shared, stream in shares if is_own(stream, shared, sequence.opening)]
    free = [stream for _, stream in shares[:slots] if not stream.busy]
    busy = [stream.index for _, stream in shares[:slots] if stream.busy]
    near = min(slots, _near(busy, free[0].index)) if compact else slots
    home = max((item for item in own if item[1].index < near), key=lambda x: x[0], default=(0, None))[1]
    block = slots if not compact else NEAR if len(busy) >= NEAR else 1  # few rows must be neighbours, many nearly so
    target = home or min(free, key=lambda s: (s.index // block, s.length > 0, s.used, s.index))
    in_place = next(shared for shared, stream in shares if stream is target)
    options: list[tuple[float, int, Stream | Found | None]] = [(0.0, in_place, None)]
    shared, source = max(shares, key=lambda item: item[0])
    if source is not target and shared >= in_place + LEAST:
        options.append((costs.copy, shared, source))
    if found:
        seconds = found.size / costs.host + (found.size / costs.disk if found.tier == "disk" else 0.0)
        options.append((seconds, found.shared, found))
    _, shared, source_ = min(options, key=lambda option: option[0] + (len(tokens) - option[1]) / costs.prefill)
    belongs = home is not None if source_ is None else any(source_ is stream for _, stream in own)
    return Placement(target, source_, shared, belongs, home is not None)
