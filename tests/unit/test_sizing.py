"""What a machine can hold, and models' headers."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import LoadFailed
from inference.sizing import GIB, Memory, Plan, Shape, Wishes, plan, read_ram, read_shape

QWEN = Shape(36, 8, 128, 128, 2560, 151_936, 40_960, 2_500_000_000)
SMALL = Shape(30, 3, 64, 64, 576, 49_152, 8192, 92_000_000)
RAM = Memory(64 * GIB, 60 * GIB, "RAM")


def gib(size: float, name: str = "GPU") -> Memory:
    return Memory(int(size * GIB), int(size * GIB), name)


def kv(shape: Shape, chosen: Plan) -> float:
    return (chosen.slots + chosen.parked) * shape.stream_bytes(chosen.context, chosen.kv_type)


@pytest.mark.parametrize(
    ("size", "slots", "context"), [(15, 8, 8192), (22.5, 16, 8192), (31, 16, 8192), (78, 64, 8192), (8, 12, 2048)]
)
def test_qwen_on_gpus(size: float, slots: int, context: int):
    chosen = plan(QWEN, gib(size), RAM, Wishes(), cores=8)
    assert (chosen.slots, chosen.context, chosen.kv_type) == (slots, context, "f16")
    assert f"{size:.1f} GiB free" in chosen.reason


def test_a_small_gpu_gets_shorter_conversations_then_q8_0_before_it_gets_fewer_slots():
    chosen = plan(QWEN, gib(5), RAM, Wishes(), cores=8)
    assert (chosen.slots, chosen.context, chosen.kv_type) == (8, 2048, "q8_0")


def test_the_embedded_model_on_two_cores():
    chosen = plan(SMALL, None, gib(23, "RAM"), Wishes(), cores=2)
    assert (chosen.slots, chosen.context, chosen.parked, chosen.kv_type) == (4, 4096, 0, "f16")


sizes = st.floats(0.1, 100)
wishes = st.builds(
    Wishes,
    st.none() | st.sampled_from([512, 4096, 32_768]),
    st.none() | st.integers(1, 256),
    st.sampled_from([None, "f16", "q8_0"]),
)


@given(st.sampled_from([QWEN, SMALL]), sizes, sizes, st.booleans(), wishes, st.integers(1, 64))
def test_a_plan_fits_and_keeps_to_the_wishes_or_says_the_figures(
    shape: Shape, gpu: float, ram: float, has_gpu: bool, wish: Wishes, cores: int
):
    memory = gib(gpu) if has_gpu else gib(ram, "RAM")

    def chosen() -> Plan:
        return plan(shape, memory if has_gpu else None, gib(ram, "RAM"), wish, cores=cores)

    try:
        found = chosen()
    except LoadFailed:
        with pytest.raises(LoadFailed, match=rf"{memory.free / GIB:.1f} GiB free"):
            chosen()
        return
    assert kv(shape, found) + shape.weights < memory.free
    assert found.host_cache <= ram * GIB / 4
    assert found.slots + found.parked <= 256
    for name in ("context", "slots", "kv_type"):
        assert getattr(wish, name) in (None, getattr(found, name))


@given(sizes, sizes)
def test_more_memory_never_holds_less(one: float, other: float):
    held = []
    for size in sorted((one, other)):
        try:
            chosen = plan(QWEN, gib(size), RAM, Wishes(context=4096, kv_type="f16"), cores=8)
            held.append(chosen.slots)
        except LoadFailed:
            held.append(0)
    assert held[0] <= held[1]


def test_what_can_not_fit_is_refused_with_the_value_that_would():
    with pytest.raises(LoadFailed, match=r"model.slots = \d+ would fit"):
        plan(QWEN, gib(22), RAM, Wishes(slots=64, context=32_768), cores=8)
    with pytest.raises(LoadFailed, match="smaller model"):
        plan(QWEN, gib(2), RAM, Wishes(), cores=8)


def test_the_embedded_models_shape(embedded_gguf: Path):
    shape = read_shape(embedded_gguf)
    assert (shape.layers, shape.kv_heads, shape.key_dim, shape.embedding) == (30, 3, 64, 576)
    assert shape.weights == embedded_gguf.stat().st_size


@given(st.binary(max_size=300), st.booleans())
def test_what_is_no_model_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, raw: bytes, begun: bool):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes((b"GGUF" + struct.pack("<IQQ", 3, 0, 5) if begun else b"") + raw)
    with pytest.raises(LoadFailed) as caught:
        read_shape(path)
    assert "\n" not in str(caught.value)
    assert "any.gguf" in str(caught.value)


def test_a_file_that_ends_too_early_is_damaged(embedded_gguf: Path, tmp_path: Path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(embedded_gguf.read_bytes()[:100_000])
    with pytest.raises(LoadFailed, match="damaged"):
        read_shape(path)


def test_the_missing_part_of_a_split_model_is_named(embedded_gguf: Path, tmp_path: Path):
    path = tmp_path / "m-00001-of-00002.gguf"
    path.symlink_to(embedded_gguf)
    with pytest.raises(LoadFailed, match="m-00002-of-00002"):
        read_shape(path)


@pytest.mark.parametrize(("limit", "free"), [("2147483648", 1 << 30), ("max", 3 << 30)])
def test_a_containers_limit_counts(tmp_path: Path, limit: str, free: int):
    (tmp_path / "meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 3145728 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    assert read_ram(tmp_path, tmp_path).free == free
