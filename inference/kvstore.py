"""Snapshots of conversations' KV state: in host memory, and below it on disk, where they survive a kill -9.

A snapshot is a list of tokens and the bytes that llama.cpp gives out for them. Whoever asks for a snapshot gets one
whose tokens were compared one by one and, from disk, whose bytes still have the checksum they were written with; in
doubt there is none, and the conversation is computed anew. The store belongs to the model's thread. A thread of its
own, `kv-writer`, does all writing to disk, so a slow disk costs snapshots, never answers.

On disk a fingerprint (model file, parameters, adapter) has a sub-folder, and a snapshot in it one file, named by the
hash of its tokens: header, tokens, state, and a SHA-256 over all three. A file's mtime says when it was last used.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from inference.kvfiles import Damaged, Shelf, report_unusable
from inference.kvindex import TOKEN, Entry, Index, Lru, State, Tokens, as_bytes, key_of

LEAST = 16  # shared tokens below which a snapshot is not worth its loading
RETRY = 60.0  # seconds that a disk which failed is left alone
CLOSING = 10.0  # seconds that close() waits for a disk that hangs
FREE_SHARE = 10  # the disk tier takes at most the 10th part of what is free
MEASURABLE = 1 << 20  # bytes below which a read says nothing about the disk's rate

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Found:
    """A stored snapshot that shares `shared` leading tokens with what was asked for."""

    key: str
    shared: int  # tokens in common with the query; may be less than `length`
    length: int  # tokens the snapshot holds
    size: int  # bytes of its state
    tier: Literal["host", "disk"]


class KvStore:
    """Finds, keeps and evicts snapshots in both tiers. Nothing here raises because of a disk.

    `folder`: where the disk tier lives, None for none. `fingerprint` names what a state depends on besides its
    tokens. The limits are in bytes; the disk's holds for all fingerprints together. Beyond `host_bytes`, memory
    holds evicted states that are not written yet: a quarter of it, or one state that is larger.
    """

    def __init__(self, folder: Path | None, fingerprint: str, *, host_bytes: int, disk_bytes: int) -> None:
        self.disk_rate = 500e6  # bytes a second that loading from disk gives, verification included
        self._host_bytes, self._disk_bytes = host_bytes, disk_bytes
        self._shelf = Shelf(folder, fingerprint) if folder else None
        self._index, self._host, self._disk = Index(), Lru(), Lru()
        self._others: list[tuple[str, int]] = []
        self._changed = threading.Condition()  # guards everything above and below; never held during I/O
        self._jobs: deque[Entry] = deque()  # whose files the writer is to bring in line; the first is in its hands
        self._retry_at: float | None = None  # when a disk that failed may be tried again, monotonic
        self._measured = self._closed = False
        self._writer: threading.Thread | None = None
        if self._shelf:
            self._open(self._shelf)
            self._writer = threading.Thread(target=self._work, args=(self._shelf,), name="kv-writer", daemon=True)
            self._writer.start()

    @property
    def host_used(self) -> int:
        """Bytes of the states in the host tier."""
        return self._host.used

    @property
    def disk_used(self) -> int:
        """Bytes of all files in the folder, those of other fingerprints included."""
        with self._changed:
            return self._disk.used + sum(size for _, size in self._others)

    def find(self, tokens: Tokens) -> Found | None:
        """The snapshot that shares most leading tokens; of several one in host memory, then the smallest."""
        with self._changed:
            shared, entries = self._index.closest(as_bytes(tokens))
            if shared < LEAST:
                return None
            best = min(entries, key=lambda entry: (entry.state is None, entry.size))
            tier: Literal["host", "disk"] = "disk" if best.state is None else "host"
            return Found(best.key, shared, len(best.tokens) // TOKEN, best.size, tier)

    def holds(self, tokens: Tokens) -> bool:
        """Whether a snapshot of exactly these tokens is stored."""
        asked = as_bytes(tokens)
        with self._changed:
            entry = self._index.by_key.get(key_of(asked))
            return entry is not None and entry.tokens == asked

    def put(self, tokens: Tokens, state: State) -> None:
        """Keeps a snapshot; the store owns `state` from now on, nobody may write to it."""
        new = Entry(as_bytes(tokens), state.nbytes)
        with self._changed:
            entry = self._index.by_key.get(new.key)
            if entry and (entry.size, entry.tokens) != (new.size, new.tokens):
                self._drop(entry)
                entry = None
            if entry is None:
                self._index.add(entry := new)
            if self._to_be_written(entry):
                entry.pending = True
                self._ask_writer(entry)
            self._admit(entry, state)
        self._touch(entry)

    def load(self, found: Found) -> State | None:
        """The state of a snapshot, read-only; None if it is gone, or if its file is not what it must be."""
        with self._changed:
            entry = self._index.by_key.get(found.key)
            if entry is None:
                return None
            state = entry.state
        if state is None and (state := self._read(entry)) is None:
            return None
        with self._changed:
            if self._index.by_key.get(entry.key) is entry:  # not evicted while it was read
                self._admit(entry, state)
        self._touch(entry)
        return read_only(state)

    def drop_prefixes(self, tokens: Tokens) -> None:
        """Forgets, in both tiers, snapshots that these tokens go on from and that hold at least half of them.

        They are older turns of the same conversation; a shorter one may be a system prompt that others share.
        """
        longer = as_bytes(tokens)
        with self._changed:
            for entry in self._index.strict_prefixes(longer, len(longer) / 2):
                self._drop(entry)

    def flush(self, timeout: float) -> bool:
        """Waits `timeout` seconds at most for the writer; False if it is not done or the disk refuses."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._jobs, timeout)
            return not self._jobs and self._retry_at is None

    def close(self) -> None:
        """Ends the writer; what it has not written yet is not written. Call flush() first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._writer:
            self._writer.join(CLOSING)

    # host tier; with the lock held

    def _admit(self, entry: Entry, state: State) -> None:
        """Makes it the newest of the host tier, if it fits there, and evicts the oldest."""
        entry.state = read_only(state)
        if entry.size > self._host_bytes:
            self._leave_host(entry)
            return
        self._host.use(entry.key, entry.size)
        while self._host.used > self._host_bytes and (oldest := self._host.oldest()):
            self._leave_host(self._index.by_key[oldest])

    def _leave_host(self, entry: Entry) -> None:
        self._host.discard(entry.key)
        if not entry.pending:
            self._let_go(entry)
            return
        backlog = sum(e.size for e in self._jobs if e.pending and e.key not in self._host)
        if backlog > max(self._host_bytes / 4, entry.size):
            log.debug("a KV snapshot is given up: the disk is slower than they come", bytes=entry.size)
            self._drop(entry)

    def _let_go(self, entry: Entry) -> None:
        """Frees what no tier holds any more."""
        if entry.key not in self._host and not entry.pending:
            entry.state = None
            if entry.key not in self._disk:
                self._index.discard(entry)

    def _drop(self, entry: Entry) -> None:
        if entry.pending and entry is not self._jobs[0]:
            self._jobs.remove(entry)  # not begun, so there is nothing to delete
        elif entry.pending or entry.key in self._disk:
            self._ask_writer(entry)
        entry.pending = False
        self._host.discard(entry.key)
        self._disk.discard(entry.key)
        self._let_go(entry)

    def _ask_writer(self, entry: Entry) -> None:
        self._jobs.append(entry)
        self._changed.notify_all()

    def _to_be_written(self, entry: Entry) -> bool:
        stored = entry.pending or entry.key in self._disk
        return self._shelf is not None and not (stored or self._closed or self._resting())

    def _resting(self) -> bool:
        return self._retry_at is not None and time.monotonic() < self._retry_at

    # disk tier

    def _open(self, shelf: Shelf) -> None:
        try:
            shelf.prepare()
            for entry in shelf.scan():
                self._index.add(entry)
                self._disk.use(entry.key, entry.weight)
            self._others = shelf.others()
            self._make_room(shelf, 0)
        except OSError as error:
            self._rest(error)

    def _read(self, entry: Entry) -> State | None:
        assert self._shelf
        started = time.perf_counter()
        try:
            state = self._shelf.read(entry)
        except (OSError, Damaged) as error:
            with self._changed:
                if entry.key not in self._disk:  # evicted a moment ago
                    return None
                self._drop(entry)
            report_unusable(entry.key, error)
            self._shelf.remove(entry.key)
            return None
        if entry.size >= MEASURABLE:
            rate = entry.size / (time.perf_counter() - started)
            self.disk_rate = 0.7 * self.disk_rate + 0.3 * rate if self._measured else rate
            self._measured = True
        return state

    def _touch(self, entry: Entry) -> None:
        with self._changed:
            if self._shelf is None or entry.key not in self._disk:
                return
            self._disk.use(entry.key, entry.weight)
        self._shelf.touch(entry.key)

    def _rest(self, error: OSError) -> None:
        with self._changed:
            first, self._retry_at = self._retry_at is None, time.monotonic() + RETRY
        if first:
            log.warning("the disk takes no KV snapshots; they stay in memory", reason=str(error))

    # the writer's thread

    def _work(self, shelf: Shelf) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                entry = self._jobs[0]
                state = entry.state if entry.pending else None
            written = False
            if state is not None:
                written = self._write(shelf, entry, state)
            else:  # it was dropped; a later put of the same tokens comes later in the queue, too
                shelf.remove(entry.key)
            with self._changed:
                self._jobs.popleft()
                if entry.pending:
                    entry.pending = False
                    if written:
                        self._disk.use(entry.key, entry.weight)
                    self._let_go(entry)
                self._changed.notify_all()

    def _write(self, shelf: Shelf, entry: Entry, state: State) -> bool:
        if self._resting():
            return False
        try:
            shelf.prepare()
            if not self._make_room(shelf, entry.weight):
                log.debug("a KV snapshot is not written: the disk tier has too little room", bytes=entry.weight)
                return False
            written = shelf.write(entry, state, lambda: self._closed or not entry.pending)
        except OSError as error:
            self._rest(error)
            return False
        if written:
            with self._changed:
                self._retry_at = None
        return written

    def _make_room(self, shelf: Shelf, size: int) -> bool:
        """Deletes other fingerprints, then own snapshots, until `size` bytes fit; False if they can't."""
        limit = min(self._disk_bytes, shelf.free() // FREE_SHARE)
        goal = limit - size if size <= limit else limit
        while self.disk_used > goal:
            if self._others:
                with self._changed:
                    other, _ = self._others.pop(0)
                shelf.remove_other(other)
            elif key := self._evict_from_disk():
                shelf.remove(key)
        return size <= limit

    def _evict_from_disk(self) -> str | None:
        with self._changed:
            if key := self._disk.oldest():  # None if the last one was dropped in between
                self._disk.discard(key)
                self._let_go(self._index.by_key[key])
            return key


def read_only(state: State) -> State:
    view = np.ascontiguousarray(state).view()
    view.flags.writeable = False
    return view
