"""Snapshots are found, kept within limits, and never returned wrong or damaged."""

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from inference import kvindex, kvstore
from inference.kvstore import KvStore

LENGTH = kvindex.HEADER.size + 100 * 4 + 500 + kvindex.DIGEST  # bytes of a file with a hundred tokens
MEGABYTE = 1 << 20


def tokens(*parts: tuple[int, int]) -> np.ndarray:
    """Each part is a token and how often it is repeated."""
    return np.concatenate([np.full(count, token, np.int32) for token, count in parts])


def state_of(asked: np.ndarray, size: int = 500) -> np.ndarray:
    """The bytes that belong to these tokens and to no others."""
    seed = int.from_bytes(sha256(asked.tobytes()).digest()[:8])
    return np.frombuffer(random.Random(seed).randbytes(size), np.uint8).copy()


def opened(folder: Path | None, fingerprint: str = "model", *, host: int = MEGABYTE, disk: int = MEGABYTE):
    return closing(KvStore(folder, fingerprint, host_bytes=host, disk_bytes=disk))


def put(store: KvStore, *many: np.ndarray, size: int = 500) -> None:
    for asked in many:
        store.put(asked, state_of(asked, size))


def stored(folder: Path, *many: np.ndarray, fingerprint: str = "model") -> list[Path]:
    """The files of these snapshots, written by a store that is closed again."""
    files = []
    for asked in many:
        with opened(folder, fingerprint) as store:
            before = set(folder.glob("*/*.kv"))
            put(store, asked)
            assert store.flush(5)
        files += set(folder.glob("*/*.kv")) - before
    assert len(files) == len(many)
    return files


def is_right(state: np.ndarray | None, asked: np.ndarray, size: int = 500) -> bool:
    return state is not None and bool(np.array_equal(state, state_of(asked, size)))


A, B, C, D = (tokens((token, 100)) for token in (1, 2, 3, 4))


# what is found


def brute_force(query: list[int], held: list[list[int]]) -> int:
    def shared(other: list[int]) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(query, other, strict=False)) if a != b), min(len(query), len(other))
        )

    return max(map(shared, held), default=0)


stems = st.integers(0, 3).map(lambda seed: random.Random(seed % 2).choices(range(3), k=60) + [seed] * 70)
conversations = st.builds(
    lambda stem, cut, tail: stem[:cut] + tail, stems, st.integers(0, 130), st.lists(st.integers(-1, 300), max_size=3)
)


@given(held=st.lists(conversations, max_size=20), query=conversations)
@settings(deadline=None)
def test_find_agrees_with_comparing_every_snapshot_token_by_token(held, query):
    with opened(None) as store:
        for one in held:
            put(store, np.array(one, np.int32))
        found, expected = store.find(np.array(query, np.int32)), brute_force(query, held)
        if expected < 16:
            assert found is None
        else:
            state = store.load(found)
            assert found.shared == expected
            (owner,) = {tuple(one) for one in held if is_right(state, np.array(one, np.int32))}
            assert brute_force(query, [list(owner)]) == expected
            assert found.length == len(owner)


def test_of_equally_good_snapshots_one_in_memory_is_taken_and_then_the_smallest(tmp_path):
    on_disk, large, small = (tokens((1, 50), (token, 10)) for token in (2, 3, 4))
    stored(tmp_path, on_disk)
    with opened(tmp_path) as store:
        put(store, large, size=900)
        put(store, small, size=800)
        found = store.find(tokens((1, 50), (9, 10)))
        assert (found.shared, found.size, found.tier) == (50, 800, "host")
        assert store.find(on_disk).tier == "disk"


def test_fifteen_shared_tokens_are_too_few_and_sixteen_are_enough():
    with opened(None) as store:
        put(store, A)
        assert store.find(tokens((1, 15), (7, 80))) is None
        assert store.find(tokens((1, 16), (7, 80))).shared == 16


def test_holds_means_exactly_these_tokens():
    with opened(None) as store:
        put(store, A)
        assert store.holds(A)
        assert not store.holds(A[:-1])
        assert not store.holds(np.append(A, A[:1]))


def test_finding_among_thousands_of_long_snapshots_takes_milliseconds():
    system = np.arange(1000, dtype=np.int32)
    with opened(None, host=64 * MEGABYTE) as store:
        for number in range(2000):
            store.put(np.append(system, np.full(8000, number, np.int32)), np.zeros(10, np.uint8))
        started = time.perf_counter()
        for number in range(100):
            assert store.find(np.append(system, np.full(9000, number, np.int32))).shared == 9000
            assert store.find(np.append(system, np.full(9000, -1, np.int32))).shared == 1000
        assert time.perf_counter() - started < 1.0  # seconds for two hundred; comparing with all takes several


def test_a_newer_turn_replaces_the_older_ones_but_not_what_others_share(tmp_path):
    system, older, newer = tokens((1, 40)), tokens((1, 40), (2, 30)), tokens((1, 40), (2, 60))
    branch = tokens((1, 40), (3, 50))
    with opened(tmp_path) as store:
        put(store, system, older, branch, newer)
        store.flush(5)
        store.drop_prefixes(newer)
        assert [store.holds(one) for one in (system, older, branch, newer)] == [True, False, True, True]
        assert store.flush(5)
        assert store.host_used == 3 * 500
    with opened(tmp_path) as store:
        assert [store.holds(one) for one in (system, older, branch, newer)] == [True, False, True, True]


def test_a_snapshot_put_again_with_another_size_replaces_the_old_one(tmp_path):
    with opened(tmp_path) as store:
        put(store, A, size=500)
        store.flush(5)
        put(store, A, size=700)
        assert store.flush(5)
        assert store.host_used == 700
    with opened(tmp_path) as store:
        assert is_right(store.load(store.find(A)), A, 700)
        assert store.disk_used == sum(file.stat().st_size for file in tmp_path.glob("*/*"))


def test_two_lists_of_tokens_with_the_same_hash_are_not_taken_for_one_another():
    with patch.object(kvindex, "sha256", lambda _: sha256(b"the same")), opened(None) as store:
        put(store, A)
        assert not store.holds(B)
        put(store, B)
        assert store.find(A) is None
        assert is_right(store.load(store.find(B)), B)


def test_nobody_can_write_to_a_state_that_the_store_gave_out(tmp_path):
    with opened(tmp_path, host=500) as store:
        put(store, A)
        store.flush(5)
        put(store, B)
        for one in (B, A):  # from memory, from disk
            with pytest.raises(ValueError, match="read-only"):
                store.load(store.find(one))[0] = 1


# limits


def test_host_memory_is_bounded_and_the_longest_unused_goes():
    with opened(None, host=1200) as store:
        put(store, A, B)
        store.load(store.find(A))
        put(store, C)
        assert [store.holds(one) for one in (A, B, C)] == [True, False, True]
        assert store.host_used == 1000


def test_a_state_larger_than_host_memory_evicts_nobody():
    with opened(None, host=1200) as store:
        put(store, A, B)
        put(store, C, size=1300)
        assert [store.holds(one) for one in (A, B, C)] == [True, True, False]


def test_what_host_memory_evicts_is_still_on_disk(tmp_path):
    with opened(tmp_path, host=500) as store:
        put(store, A)
        store.flush(5)
        put(store, B)
        found = store.find(A)
        assert found.tier == "disk"
        assert is_right(store.load(found), A)
        assert store.find(A).tier == "host"
        assert store.host_used == 500


def test_the_disk_is_bounded_and_the_longest_unused_goes(tmp_path):
    with opened(tmp_path, host=0, disk=3 * LENGTH) as store:
        for one in (A, B, C, D):
            store.flush(5)  # memory holds one at a time
            put(store, one)
            if one is C:
                store.flush(5)
                store.load(store.find(A))
        store.flush(5)
        assert [store.holds(one) for one in (A, B, C, D)] == [True, False, True, True]


def test_the_disk_is_bounded_and_its_order_of_use_survives_a_restart(tmp_path):
    room = 3 * LENGTH
    with opened(tmp_path, disk=room) as store:
        put(store, A, B, C)
        store.flush(5)
        store.load(store.find(A))
    with opened(tmp_path, disk=room) as store:
        put(store, D)
        assert store.flush(5)
        assert [store.holds(one) for one in (A, B, C, D)] == [True, False, True, True]
        assert store.disk_used == sum(file.stat().st_size for file in tmp_path.glob("*/*")) == room


def test_a_lower_disk_limit_holds_from_the_start(tmp_path):
    stored(tmp_path, A, B)
    with opened(tmp_path, disk=LENGTH) as store:
        assert [store.holds(one) for one in (A, B)] == [False, True]


def test_a_state_larger_than_the_disk_tier_stays_in_memory_and_deletes_nothing(tmp_path):
    with opened(tmp_path, disk=1100) as store:
        put(store, A)
        put(store, B, size=1200)
        assert store.flush(5)
        assert store.holds(B)
    with opened(tmp_path, disk=1100) as store:
        assert [store.holds(one) for one in (A, B)] == [True, False]


def test_the_disk_tier_takes_no_more_than_a_tenth_of_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * (LENGTH + 100)))
    with opened(tmp_path) as store:
        put(store, A, B)
        put(store, C, size=700)
        store.flush(5)
        assert store.disk_used == LENGTH
    with opened(tmp_path) as store:
        assert [store.holds(one) for one in (A, B, C)] == [False, True, False]


def test_evicted_states_wait_for_a_slow_disk_in_bounded_memory(tmp_path):
    many = [tokens((token, 50)) for token in range(10)]
    go, fsync = threading.Event(), os.fsync
    with patch("os.fsync", lambda fd: (go.wait(10), fsync(fd))), opened(tmp_path, host=1000) as store:
        put(store, *many, size=200)  # five fit, the first is being written, a quarter of 1000 has room for no other
        assert [store.holds(one) for one in many] == [True] + 4 * [False] + 5 * [True]
        assert is_right(store.load(store.find(many[0])), many[0], 200)
        assert len(store._jobs) == 6
        go.set()
        assert store.flush(5)
    with opened(tmp_path) as store:
        assert [store.holds(one) for one in many] == [True] + 4 * [False] + 5 * [True]
        assert is_right(store.load(store.find(many[0])), many[0], 200)


# restarts, damage, isolation


def test_a_restart_finds_what_was_flushed(tmp_path):
    with opened(tmp_path) as store:
        put(store, A, B)
        assert store.flush(5)
    with opened(tmp_path) as store:
        assert store.host_used == 0
        for one in (A, B):
            found = store.find(np.append(one, one))
            assert (found.shared, found.length, found.size, found.tier) == (100, 100, 500, "disk")
            assert is_right(store.load(found), one)


def test_what_a_killed_writer_left_is_removed_and_the_rest_is_found(tmp_path):
    whole, short = stored(tmp_path, A, B)
    leftover = short.with_suffix(".tmp")
    leftover.write_bytes(short.read_bytes()[:300])
    short.write_bytes(short.read_bytes()[:-1])
    with opened(tmp_path) as store:
        assert not store.holds(B)
        assert is_right(store.load(store.find(A)), A)
        assert list(whole.parent.iterdir()) == [whole]


def test_a_file_gets_its_name_only_when_it_is_on_the_disk(tmp_path):
    calls, fsync, replace = [], os.fsync, Path.replace

    def record_fsync(fd):
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def record_replace(path, target):
        calls.append("rename")
        return replace(path, target)

    with patch("os.fsync", record_fsync), patch.object(Path, "replace", record_replace):
        with opened(tmp_path) as store:
            put(store, A, A)
            store.flush(5)
            put(store, A)
            store.flush(5)
    assert calls == ["file", "rename", "folder"]  # and once only


WRITE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
from tests.unit.test_kvstore import KvStore, state_of
store = KvStore(Path(sys.argv[1]), "model", host_bytes=1 << 24, disk_bytes=1 << 24)
for number in count():
    tokens = np.full(50, number, np.int32)
    store.put(tokens, state_of(tokens, 1 << 20))
    if number == 4:
        store.flush(5)
        print("go", flush=True)
"""


def test_kill_9_in_the_midst_of_writing_leaves_only_right_snapshots(tmp_path):
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    with capture_logs() as events, opened(tmp_path, disk=1 << 26) as store:
        held = [one for number in range(500) if store.holds(one := np.full(50, number, np.int32))]
        assert len(held) >= 5
        assert all(is_right(store.load(store.find(one)), one, 1 << 20) for one in held)
    assert not events  # what was not whole had no name yet


@pytest.fixture(scope="module")
def good_file(tmp_path_factory) -> tuple[str, bytes]:
    (file,) = stored(tmp_path_factory.mktemp("good"), A)
    return f"{file.parent.name}/{file.name}", file.read_bytes()


damages = st.one_of(
    st.builds(
        lambda at, bits: lambda whole: whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :],
        st.integers(0, LENGTH - 1),
        st.integers(1, 255),
    ),
    st.integers(0, LENGTH - 1).map(lambda length: lambda whole: whole[:length]),
    st.binary(min_size=1, max_size=9).map(lambda more: lambda whole: whole + more),
)


@given(damage=damages, restarted=st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_damage_yields_none_and_removes_the_file(good_file, damage, restarted):
    name, whole = good_file
    assert len(whole) == LENGTH
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.parent.mkdir()
        file.write_bytes(damage(whole) if restarted else whole)
        with capture_logs() as events, opened(Path(folder)) as store:
            if not restarted:
                file.write_bytes(damage(whole))
            if found := store.find(A):
                assert store.load(found) is None
            assert not store.holds(A)
            assert not file.exists()
        assert [event["log_level"] for event in events] == ["warning"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_under_the_name_of_another_is_refused(tmp_path, restarted):
    first, second = stored(tmp_path, A, B)
    if restarted:
        shutil.copyfile(first, second)
    with capture_logs() as events, opened(tmp_path) as store:
        if not restarted:
            shutil.copyfile(first, second)
        found = store.find(B)
        assert found is None or store.load(found) is None
        assert not second.exists()
        assert is_right(store.load(store.find(A)), A)
    assert len(events) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_renamed_file_is_refused(tmp_path, restarted):
    (file,) = stored(tmp_path, A)
    if restarted:
        file.rename(file.with_stem("0" * 64))
    with opened(tmp_path) as store:
        if not restarted:
            file.rename(file.with_stem("0" * 64))
        found = store.find(A)
        assert found is None or store.load(found) is None
    with opened(tmp_path):
        assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("restarted", [False, True])
def test_another_fingerprints_snapshots_are_not_offered_even_in_the_right_folder(tmp_path, restarted):
    (foreign,) = stored(tmp_path, A, fingerprint="another model")
    (own,) = stored(tmp_path, A)
    assert foreign.name == own.name
    if restarted:
        shutil.copyfile(foreign, own)
    with opened(tmp_path) as store, opened(tmp_path, "a third model") as third:
        assert third.find(A) is None
        if restarted:
            assert store.find(A) is None
        else:
            shutil.copyfile(foreign, own)
            assert store.load(store.find(A)) is None
        assert not own.exists()
        assert foreign.exists()


def test_a_symbolic_link_is_not_followed(tmp_path):
    (file,) = stored(tmp_path, A)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with opened(tmp_path) as store:
        assert store.find(A) is None
        assert (tmp_path / "elsewhere").exists()


def test_other_fingerprints_go_only_for_room_and_the_longest_unused_first(tmp_path):
    (tmp_path / "of the user").mkdir()
    (tmp_path / "of the user" / "file").write_bytes(bytes(10_000))
    old, recent = (stored(tmp_path, A, fingerprint=name)[0].parent for name in ("old", "recent"))
    os.utime(old, (1, 1))
    with opened(tmp_path, disk=2 * LENGTH) as store:
        assert store.disk_used == 2 * LENGTH
        assert (old.exists(), recent.exists()) == (True, True)
        put(store, B)
        store.flush(5)
        assert (old.exists(), recent.exists()) == (False, True)
        assert store.disk_used == 2 * LENGTH
    assert (tmp_path / "of the user" / "file").exists()


def test_only_the_owner_can_read_what_is_stored(tmp_path):
    umask = os.umask(0)
    try:
        (file,) = stored(tmp_path / "new" / "kv", A)
        file.parent.chmod(0o777)
        stored(tmp_path / "new" / "kv", B)
    finally:
        os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (file.parent, file.parent.parent)} == {0o700}


# a disk that fails


def test_a_folder_that_cannot_be_made_costs_one_warning_and_no_exception(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with capture_logs() as events, opened(tmp_path / "file" / "kv") as store:
        put(store, A, B)
        assert not store.flush(5)
        assert is_right(store.load(store.find(B)), B)
        assert store.disk_used == 0
    assert [event["log_level"] for event in events] == ["warning"]


@pytest.mark.parametrize("failing", ["creation", "file", "folder"])
def test_a_full_disk_is_left_alone_and_tried_again_later(tmp_path, monkeypatch, failing):
    refused = []
    fsync = os.fsync

    def refuse(*_):
        refused.append(failing)
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse_to_sync(fd):
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        return refuse() if is_folder == (failing == "folder") else fsync(fd)

    with capture_logs() as events, opened(tmp_path) as store:
        with monkeypatch.context() as full:
            full.setattr(os, "open", refuse) if failing == "creation" else full.setattr(os, "fsync", refuse_to_sync)
            for asked, tries in ((A, 1), (B, 1), (C, 2)):  # B comes too soon to be tried
                put(store, asked)
                assert not store.flush(5)
                assert len(refused) == tries
                assert not list(tmp_path.glob("*/*"))
                store._retry_at -= 0 if asked is A else kvstore.RETRY
        assert is_right(store.load(store.find(A)), A)
        put(store, A)  # again: its first try failed
        assert store.flush(5)
        put(store, D)
        assert store.flush(5)
    assert [event["log_level"] for event in events] == ["warning"]
    with opened(tmp_path) as store:
        assert [store.holds(one) for one in (A, B, C, D)] == [True, False, False, True]


def test_what_only_a_failing_disk_would_have_kept_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: os.close(-1))
    with opened(tmp_path, host=100) as store:
        put(store, A)
        assert not store.flush(5)
        assert not store.holds(A)


def test_a_snapshot_that_was_evicted_after_it_was_found_is_none(tmp_path):
    with opened(None, host=500) as store:
        put(store, A)
        found = store.find(A)
        put(store, B)
        assert store.load(found) is None


def test_a_snapshot_that_the_writer_evicts_while_it_is_read_is_none_without_a_warning(tmp_path):
    stored(tmp_path, A)
    with capture_logs() as events, opened(tmp_path) as store:

        def read_too_late(entry):
            store._evict_from_disk()
            raise FileNotFoundError(entry.key)

        with patch.object(store._shelf, "read", read_too_late):
            assert store.load(store.find(A)) is None
    assert not events


def test_the_reading_rate_is_assumed_until_a_large_state_was_read(tmp_path):
    with opened(tmp_path, host=0, disk=1 << 24) as store:
        put(store, A)
        store.flush(5)
        put(store, B, size=2 * MEGABYTE)
        store.flush(5)
        store.load(store.find(A))
        assert store.disk_rate == 500e6
        store.load(store.find(B))
        assert store.disk_rate != 500e6


# the writer


def writers() -> int:
    return sum(thread.name == "kv-writer" for thread in threading.enumerate())


def test_close_ends_the_writer_and_the_store_still_answers(tmp_path):
    store = KvStore(tmp_path, "model", host_bytes=1000, disk_bytes=10_000)
    assert writers() == 1
    put(store, A)
    assert store.flush(5)
    store.close()
    store.close()
    assert writers() == 0
    put(store, B)
    assert store.flush(0)  # nothing waits for a writer that is no more
    assert is_right(store.load(store.find(B)), B)


@pytest.mark.parametrize(("moment", "syncs"), [("shutil.disk_usage", 2), ("os.fsync", 4)])
def test_a_snapshot_dropped_while_it_is_written_leaves_no_file(tmp_path, moment, syncs):
    go, begun, calls = threading.Event(), threading.Event(), []
    real = {"shutil.disk_usage": shutil.disk_usage, "os.fsync": os.fsync}

    def slow(call, argument):
        calls.append(call)
        if call == moment:
            begun.set()
            go.wait(10)
        return real[call](argument)

    with opened(tmp_path) as store, ExitStack() as patches:
        for call in real:
            patches.enter_context(patch(call, partial(slow, call)))
        put(store, A)
        assert begun.wait(5)
        store.drop_prefixes(np.append(A, A))
        put(store, np.append(A, A))
        go.set()
        assert store.flush(5)
        assert not store.holds(A)
        assert len(list(tmp_path.glob("*/*"))) == 1
        assert calls.count("os.fsync") == syncs  # what is dropped in time is not written to its end


def test_puts_loads_and_evictions_while_the_writer_runs_give_right_states_within_limits(tmp_path):
    dice = random.Random(7)
    many = [tokens((token % 5, 30), (token, 30 + token)) for token in range(40)]
    host, disk = 10_000, 20_000
    loads = {"host": 0, "disk": 0}
    with opened(tmp_path, host=host, disk=disk) as store:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            one = dice.choice(many)
            time.sleep(0.0002)
            if dice.random() < 0.1:
                put(store, one, size=1000)
            elif dice.random() < 0.05:
                store.drop_prefixes(np.append(one, one[-1:]))
                assert not store.holds(one)
            elif store.holds(one):
                found = store.find(one)
                state = store.load(found)
                assert state is None or is_right(state, one, 1000)
                loads[found.tier] += state is not None
            assert store.host_used <= host
            assert store.disk_used <= disk
        assert store.flush(5)
        assert min(loads.values()) > 10
        assert store.disk_used == sum(file.stat().st_size for file in tmp_path.glob("*/*"))
        held = [store.holds(one) for one in many]
        in_memory = [store.find(one).tier == "host" for one, is_held in zip(many, held, strict=True) if is_held]
        assert sum(in_memory) * 1000 == store.host_used
    with capture_logs() as events, opened(tmp_path, disk=disk) as store:
        assert all(is_right(store.load(store.find(one)), one, 1000) for one in many if store.holds(one))
    assert not events
