"""What Telegram takes for a photo. Not modelled: formats other than PNG, and photos by address or file_id."""

from __future__ import annotations

import struct
import zlib

from tests.fakes.telegram_types import Params, PhotoSize, bad_request

MAX_BYTES = 10 * 1024 * 1024
MAX_EDGES = 10_000  # pixels of width and height together
MAX_RATIO = 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photo(params: Params) -> tuple[bytes, PhotoSize]:
    """The uploaded picture of a call, and its size."""
    content = params.files.get("photo")
    if not content:
        raise bad_request("there is no photo in the request")
    if len(content) > MAX_BYTES:
        raise bad_request(f"file of size {len(content)} bytes is too big for a photo; the maximum is {MAX_BYTES} bytes")
    width, height = _png_size(content)
    if width + height > MAX_EDGES or max(width, height) > MAX_RATIO * min(width, height):
        raise bad_request("PHOTO_INVALID_DIMENSIONS")
    name = f"photo-{zlib.crc32(content):08x}"
    return content, PhotoSize(name, name, width, height, len(content))


def _png_size(content: bytes) -> tuple[int, int]:
    """Width and height; every chunk must be whole."""
    size, at, kind = (0, 0), len(_SIGNATURE), b""
    if not content.startswith(_SIGNATURE):
        raise bad_request("IMAGE_PROCESS_FAILED")
    while at < len(content):
        length = int.from_bytes(content[at : at + 4])
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if content[at + 8 + length : at + 12 + length] != zlib.crc32(kind + body).to_bytes(4):
            raise bad_request("IMAGE_PROCESS_FAILED")
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        at += 12 + length
    if kind != b"IEND" or not all(size):
        raise bad_request("IMAGE_PROCESS_FAILED")
    return size


def png(width: int = 8, height: int = 8) -> bytes:
    """A black picture."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    return _SIGNATURE + b"".join(_chunk(*one) for one in ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b"")))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
