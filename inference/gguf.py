"""The header of a GGUF file: its key-value pairs, without the arrays' contents.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from inference.errors import LoadFailed
from inference.weights import GGUF

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
MOST_PAIRS, MOST_BYTES = 65_536, 1 << 28  # beyond these a file is damaged


@dataclass(frozen=True, slots=True)
class Header:
    """Scalars and texts by key, and the lengths of the arrays."""

    path: Path
    values: dict[str, int | float | bool | str]
    lengths: dict[str, int]

    def number(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or value < 0:
            raise LoadFailed(f"{self.path} does not say {key}: it is no model that can be loaded.")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise LoadFailed(f"{self.path} does not say {key}: it is no model that can be loaded.")
        return value


def read_header(path: Path) -> Header:
    """Raises LoadFailed where the file is not a GGUF of version 2 or 3, or ends too early."""
    header = Header(path, {}, {})
    try:
        with path.open("rb") as file:
            if file.read(len(GGUF)) != GGUF or _scalar(file, "<I") not in (2, 3):
                raise LoadFailed(f"{path} can't be loaded: it is not a GGUF file of version 2 or 3.")
            _scalar(file, "<Q")  # tensors
            for _ in range(_bounded(_scalar(file, "<Q"), MOST_PAIRS)):
                key, kind = _text(file), int(_scalar(file, "<I"))
                if kind == ARRAY:
                    header.lengths[key] = _skip_array(file)
                else:
                    header.values[key] = _text(file) if kind == TEXT else _scalar(file, SCALARS[kind])
    except OSError as error:
        raise LoadFailed(f"{path} can't be read: {error.strerror}.") from None
    except (struct.error, KeyError, ValueError, RecursionError):
        raise LoadFailed(f"{path} can't be loaded: its header is damaged; pull or copy the file again.") from None
    return header


def parts(path: Path) -> list[Path]:
    """All files of a model that may be split into `…-00001-of-00003.gguf`."""
    split = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if not split:
        return [path]
    every = [path.with_name(f"{split[1]}-{n:05}-of-{split[2]}.gguf") for n in range(1, int(split[2]) + 1)]
    for part in every:
        if not part.exists():
            raise LoadFailed(f"{part} is missing: the model is split into {len(every)} files.")
    return every


def _scalar(file: BinaryIO, form: str) -> int | float | bool:
    value: int | float | bool = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _bounded(count: float, most: int) -> int:
    if not 0 <= count <= most:
        raise ValueError(count)
    return int(count)


def _text(file: BinaryIO) -> str:
    size = _bounded(_scalar(file, "<Q"), MOST_BYTES)
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError(size)
    return raw.decode("utf-8", "replace")


def _skip_array(file: BinaryIO) -> int:
    kind, count = int(_scalar(file, "<I")), _bounded(_scalar(file, "<Q"), MOST_BYTES)
    if kind == TEXT:
        for _ in range(count):
            size = _bounded(_scalar(file, "<Q"), MOST_BYTES)
            if len(file.read(size)) < size:
                raise ValueError(size)
    elif kind == ARRAY:
        for _ in range(count):
            _skip_array(file)
    else:
        size = count * struct.calcsize(SCALARS[kind])
        if len(file.read(size)) < size:
            raise ValueError(size)
    return count
