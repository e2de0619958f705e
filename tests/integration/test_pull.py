"""A model is fetched by ModelScope's own library, from the fake hub."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from inference import weights
from inference.errors import InferenceError
from inference.weights import Manifest, Progress
from tests.fakes.modelscope_hub import FakeHub, Faults

NAME = "gguf/Qwen3-4B-Q4_K_M.GGUF"  # neither the folder nor the case is what one would guess
BODY = b"GGUF" + bytes(range(256)) * 8000
CUT = 1_500_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library with a home of its own, no proxy, and without the pauses between its attempts."""
    from modelscope_hub import _download, _legacy_api, config

    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    home = config.HubConfig(cache_dir=tmp_path / "cache", config_dir=tmp_path / "home", token="")
    monkeypatch.setattr(config, "_default_config", home)
    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    other = {"README.md": b"hello", "Qwen3-4B-Q8_0.gguf": b"GGUF" + bytes(10), "q4_k_m.json": b"{}"}
    with FakeHub(files={**other, NAME: BODY}) as running:
        yield running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


def pull(hub: FakeHub, models: Path) -> weights.ModelFile:
    return weights.pull("qwen3-4b", models, lambda _: None, hub.url)


def manifests(models: Path) -> list[Path]:
    return list(models.rglob("manifest.json*"))


def test_a_pulled_model_is_whole_private_and_what_auto_takes(hub: FakeHub, models: Path) -> None:
    file = pull(hub, models)
    assert file.path == models / "qwen3-4b" / NAME
    assert file.path.read_bytes() == BODY
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert (models / "qwen3-4b").stat().st_mode & 0o777 == 0o700
    assert weights.resolve("auto", "", models) == file
    manifest = msgspec.json.decode(manifests(models)[0].read_bytes(), type=Manifest)
    assert (manifest.repository, manifest.revision, manifest.size) == (hub.repository, "master", len(BODY))


def test_only_the_chosen_file_is_fetched(hub: FakeHub, models: Path) -> None:
    pull(hub, models)
    assert len(hub.ranges) == 1
    assert not list(models.rglob("*Q8_0*"))


def test_progress_ends_at_the_whole_size_in_each_stage(hub: FakeHub, models: Path) -> None:
    seen: list[Progress] = []
    weights.pull("qwen3-4b", models, seen.append, hub.url)
    last = {progress.stage: (progress.done, progress.total) for progress in seen}
    assert last == {"downloading": (len(BODY), len(BODY)), "checking": (len(BODY), len(BODY))}


def test_a_second_pull_asks_nothing(hub: FakeHub, models: Path) -> None:
    first = pull(hub, models)
    asked = hub.listings, len(hub.ranges)
    assert pull(hub, models) == first
    assert (hub.listings, len(hub.ranges)) == asked


def test_a_cut_download_goes_on_where_it_stopped(hub: FakeHub, models: Path) -> None:
    hub.faults = Faults(cut_at=CUT, cuts=1)
    with pytest.raises(InferenceError, match="goes on where it stopped"):
        pull(hub, models)
    assert not manifests(models)
    assert weights.resolve("auto", "", models).name == "embedded"
    assert hashlib.sha256(pull(hub, models).path.read_bytes()).digest() == hashlib.sha256(BODY).digest()
    assert hub.ranges == [None, f"bytes={CUT}-"]


def test_progress_counts_what_an_earlier_try_left(hub: FakeHub, models: Path) -> None:
    hub.faults = Faults(cut_at=CUT, cuts=1)
    with pytest.raises(InferenceError):
        pull(hub, models)
    seen: list[Progress] = []
    weights.pull("qwen3-4b", models, seen.append, hub.url)
    assert seen[0].done >= CUT
    assert max(progress.done for progress in seen) == len(BODY)


def test_wrong_bytes_leave_nothing_behind(hub: FakeHub, models: Path) -> None:
    hub.faults = Faults(wrong_bytes=True)
    with pytest.raises(InferenceError, match="Hash mismatch"):
        pull(hub, models)
    assert not [path for path in models.rglob("*") if path.is_file() and ".lock" not in path.parts]
    hub.faults = Faults()
    assert pull(hub, models).path.read_bytes() == BODY


@pytest.mark.parametrize("listed", [len(BODY) + 10, len(BODY) - 10])
def test_a_size_other_than_the_listed_one_is_refused(hub: FakeHub, models: Path, listed: int) -> None:
    hub.listed_sizes[NAME] = listed
    with pytest.raises(InferenceError):
        pull(hub, models)
    assert not manifests(models)
    assert not list(models.rglob("*.GGUF"))


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_hub_that_refuses_is_told_in_one_line(hub: FakeHub, models: Path, status: int) -> None:
    hub.faults = Faults(status=status)
    with pytest.raises(InferenceError) as caught:
        pull(hub, models)
    assert "\n" not in str(caught.value)
    assert not manifests(models)


def test_without_a_network_the_cure_is_named(models: Path) -> None:
    with FakeHub() as gone:
        url = gone.url
    with pytest.raises(InferenceError, match="HTTPS_PROXY") as caught:
        weights.pull("qwen3-4b", models, lambda _: None, url)
    assert "\n" not in str(caught.value)


def test_a_repository_without_the_quantisation_is_told_with_what_it_has(hub: FakeHub, models: Path) -> None:
    del hub.files[NAME]
    with pytest.raises(InferenceError, match=r"q4_k_m.*Qwen3-4B-Q8_0\.gguf"):
        pull(hub, models)


def test_a_full_disk_is_noticed_before_anything_is_fetched(hub: FakeHub, models: Path) -> None:
    hub.listed_sizes[NAME] = 10**18
    with pytest.raises(InferenceError, match="make room"):
        pull(hub, models)
    assert not hub.ranges


def test_the_endpoint_of_the_environment_is_asked(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelscope_hub import config

    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setattr(config, "_default_config", None)  # read once in a process
    monkeypatch.setenv("MODELSCOPE_HOME", str(models.parent / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(models.parent / "cache"))
    assert weights.pull("qwen3-4b", models, lambda _: None).path.read_bytes() == BODY
