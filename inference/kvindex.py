"""Which snapshots there are: found by their tokens, remembered by their last use."""

import struct
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
State = NDArray[np.uint8]

TOKEN = 4  # bytes
HEADER = struct.Struct("<8sI32sQQ")  # magic, version, fingerprint's SHA-256, tokens, bytes of state
DIGEST = 32  # bytes of a SHA-256


@dataclass(slots=True, eq=False)
class Entry:
    """A snapshot that can be found. `state` is there while it is in host memory, be it only to be written."""

    tokens: bytes
    size: int  # bytes of state
    state: State | None = None
    pending: bool = False  # the writer has yet to write it
    key: str = ""

    def __post_init__(self) -> None:
        self.key = key_of(self.tokens)

    @property
    def weight(self) -> int:
        """Bytes of its file."""
        return HEADER.size + len(self.tokens) + self.size + DIGEST


class Lru:
    """Keys with the bytes that each takes, the longest unused first."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.used = 0  # bytes

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def use(self, key: str, size: int) -> None:
        self.discard(key)
        self._sizes[key] = size
        self.used += size

    def discard(self, key: str) -> None:
        self.used -= self._sizes.pop(key, 0)

    def oldest(self) -> str | None:
        return next(iter(self._sizes), None)


class Index:
    """Entries by key, and sorted by their tokens: what shares most with a query is the query's neighbour there."""

    def __init__(self) -> None:
        self.by_key: dict[str, Entry] = {}
        self._sorted: list[Entry] = []

    def add(self, entry: Entry) -> None:
        self.by_key[entry.key] = entry
        insort(self._sorted, entry, key=lambda e: e.tokens)

    def discard(self, entry: Entry) -> None:
        if self.by_key.get(entry.key) is entry:
            del self.by_key[entry.key]
            del self._sorted[bisect_left(self._sorted, entry.tokens, key=lambda e: e.tokens)]

    def closest(self, tokens: bytes) -> tuple[int, list[Entry]]:
        """The most leading tokens that any entry shares with these, and all entries that share so many."""
        at = bisect_left(self._sorted, tokens, key=lambda e: e.tokens)
        shared = max((common_tokens(e.tokens, tokens) for e in self._sorted[max(at - 1, 0) : at + 1]), default=0)
        prefix = tokens[: shared * TOKEN]
        first = bisect_left(self._sorted, prefix, key=lambda e: e.tokens)
        last = bisect_right(self._sorted, prefix, lo=first, key=lambda e: e.tokens[: len(prefix)])
        return shared, self._sorted[first:last]

    def strict_prefixes(self, tokens: bytes, least: float) -> list[Entry]:
        """Entries of at least `least` bytes of tokens that these tokens go on from."""
        return [e for e in self._sorted if least <= len(e.tokens) < len(tokens) and tokens.startswith(e.tokens)]


def key_of(tokens: bytes) -> str:
    """Names a snapshot's file; equal keys never stand for equal tokens."""
    return sha256(tokens).hexdigest()


def as_bytes(tokens: Tokens) -> bytes:
    return np.ascontiguousarray(tokens, "<i4").tobytes()


def common_tokens(left: bytes, right: bytes) -> int:
    """How many leading tokens two lists share."""
    count = min(len(left), len(right)) // TOKEN
    if left[: count * TOKEN] == right[: count * TOKEN]:
        return count
    return int((np.frombuffer(left, "<i4", count) != np.frombuffer(right, "<i4", count)).argmax())
