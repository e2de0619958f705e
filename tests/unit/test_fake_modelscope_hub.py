"""The fake hub answers as strictly as the real one."""

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.fakes.modelscope_hub import FakeHub, Faults

REPO = "/api/v1/models/Qwen/Qwen3-4B-GGUF/repo"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(files={"a.gguf": b"GGUF" + bytes(996)}) as running:
        yield running


def get(hub: FakeHub, path: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(hub.url + path, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_listing_has_sizes_and_hashes(hub: FakeHub) -> None:
    status, body = get(hub, REPO + "/files?Revision=master&Recursive=True")
    (file,) = json.loads(body)["Data"]["Files"]
    assert (status, file["Path"], file["Size"]) == (200, "a.gguf", 1000)
    assert file["Sha256"] == hashlib.sha256(hub.files["a.gguf"]).hexdigest()


def test_a_range_gives_the_rest(hub: FakeHub) -> None:
    status, body = get(hub, REPO + "?Revision=master&FilePath=a.gguf", Range="bytes=900-")
    assert (status, len(body), hub.ranges) == (206, 100, ["bytes=900-"])


@pytest.mark.parametrize(
    "path", [REPO + "?FilePath=b.gguf", REPO + "/files?Revision=v9", "/api/v1/models/x/y/repo/files"]
)
def test_what_is_not_there_is_a_404(hub: FakeHub, path: str) -> None:
    assert get(hub, path)[0] == 404


def test_a_range_behind_the_end_is_a_416(hub: FakeHub) -> None:
    assert get(hub, REPO + "?FilePath=a.gguf", Range="bytes=1000-")[0] == 416


def test_a_cut_breaks_off_once(hub: FakeHub) -> None:
    hub.faults = Faults(cut_at=300, cuts=1)
    with pytest.raises(http.client.IncompleteRead):
        get(hub, REPO + "?FilePath=a.gguf")
    assert len(get(hub, REPO + "?FilePath=a.gguf")[1]) == 1000


def test_wrong_bytes_and_errors(hub: FakeHub) -> None:
    hub.faults = Faults(wrong_bytes=True)
    assert get(hub, REPO + "?FilePath=a.gguf")[1] == bytes(1000)
    hub.faults = Faults(status=500)
    assert get(hub, REPO + "/files")[0] == 500
