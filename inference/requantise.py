"""The embedded model is shipped as Q4_1; as Q4_0 llama.cpp computes it much faster on a CPU.

See docs/decisions/0001-embedded-q4_0.md for the figures. Done once, in the worker, next to the other models.
"""

import ctypes
import os
from pathlib import Path

import llama_cpp as ll
import msgspec
import structlog

from inference.protocol import EngineConfig
from inference.weights import make_private, shipped

log = structlog.get_logger()


@ll.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: object) -> None:
    """llama.cpp tells about every tensor."""


def prepare(config: EngineConfig) -> EngineConfig:
    """The configuration with the requantised file in place of the embedded one's; unchanged where that fails."""
    source = Path(config.path)
    if source != shipped():
        return config
    target = Path(config.cache_dir) / f"{source.stem.removesuffix('.Q4_1')}.{source.stat().st_size}.Q4_0.gguf"
    if target.exists() or _requantise(source, target):
        return msgspec.structs.replace(config, path=str(target))
    return config


def _requantise(source: Path, target: Path) -> bool:
    """Writes beside the target and renames, so that what has its name is complete."""
    unfinished = target.with_suffix(f".{os.getpid()}")
    try:
        make_private(target.parent)
        ll.llama_log_set(_quiet, None)
        params = ll.llama_model_quantize_default_params()
        params.ftype = ll.LLAMA_FTYPE_MOSTLY_Q4_0
        params.allow_requantize = True
        if ll.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params)):
            log.warning("the embedded model stays as it is shipped", reason="llama.cpp could not requantise it")
            return False
        unfinished.chmod(0o600)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # what has its name must be whole, after a power cut too
        unfinished.replace(target)
    except OSError as error:
        log.warning("the embedded model stays as it is shipped", reason=str(error))
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    log.info("the embedded model was requantised to Q4_0", file=str(target))
    return True
