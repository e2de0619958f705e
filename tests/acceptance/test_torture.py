"""A short stay in the torture bench: seeded kills, failpoints and troubles, and a history without a violation."""

from pathlib import Path

import pytest

from bench.torture.checks import Index
from bench.torture.plan import Round, Upset
from bench.torture.report import summarised, table, violations
from bench.torture.shard import Options, Shard
from tests.integration.conftest import SERVER, postgres_database
from tests.models.qwen3_shape import write_qwen3_shape


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3_shape(tmp_path_factory.mktemp("models") / "tiny.gguf")


async def history(folder: Path, **options: object) -> Index:
    index = await Shard(Options(folder=folder, **options)).run()
    assert violations(index) == [], table(summarised(index, 0.0))
    assert index.history.deaths
    assert any(message.role == "assistant" for message in index.history.messages)
    return index


def dies_at(*points: str) -> tuple[Round, ...]:
    return tuple(Round("failpoint", 0.0, f"{point}#1") for point in points)


async def test_nothing_is_lost_or_doubled_on_sqlite(tmp_path: Path, tiny: Path):
    plan = (
        *dies_at("accept:after", "finish:before", "finish:after"),
        Round("worker", 0.7, upsets=(Upset("callbacks", 0.0, 1.5),)),
        *dies_at("placeholder number:before", "post callback:after"),
        Round("startup", 1.0),
        Round("moment", 1.5, upsets=(Upset("disk", 0.3, 0.7),), patient=True),
    )
    index = await history(tmp_path, seed="short", kills=9, model=tiny, minutes=0.4, plan=plan)
    assert any(life.reached for life in index.history.lives)


async def test_nothing_is_lost_or_doubled_on_postgresql(tmp_path: Path, tiny: Path):
    plan = (
        *dies_at("finish:before"),
        Round("moment", 1.0, upsets=(Upset("database", 0.0, 0.5),), patient=True),
    )
    async with postgres_database():  # skips where no server answers
        server = SERVER.render_as_string(hide_password=False)
        await history(
            tmp_path, seed="short", kills=2, model=tiny, minutes=0.2, plan=plan, database="postgresql", server=server
        )
