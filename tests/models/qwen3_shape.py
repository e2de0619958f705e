"""Writes a GGUF of any Qwen3 shape with Qwen3's real vocabulary and chat template, its weights random.

    python -m tests.models.qwen3_shape OUT.gguf --preset tiny|4b

Tokens, templates and thinking tags behave as with Qwen3, and with the preset 4b so does the speed; the words
mean nothing. Quantised blocks are random bytes under fixed, small scales, in the mix of Q4_K_M.
"""

import argparse
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantisation

DATA = Path(__file__).parent / "data"
BLOCK = 256  # weights in a K-quant block
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
END, IM_END = 151643, 151645
THINK = {151667: "<think>", 151668: "</think>"}


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    ff: int
    heads: int
    kv_heads: int
    head_dim: int


PRESETS = {
    "tiny": Shape(layers=2, hidden=256, ff=512, heads=4, kv_heads=2, head_dim=64),
    "4b": Shape(layers=36, hidden=2560, ff=9728, heads=32, kv_heads=8, head_dim=128),
}


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types, and the merges. A merge's product is the token of its rank after the 256 bytes."""
    data = json.loads(lzma.decompress((DATA / "qwen3-vocab.json.xz").read_bytes()))
    products = [merge.replace(" ", "", 1) for merge in data["merges"]]
    tokens = [*data["base"], *products, *data["rest"]]
    types = [NORMAL] * (len(tokens) - len(data["rest"])) + data["types"]
    for token, text in THINK.items():
        tokens[token], types[token] = text, USER_DEFINED
    return tokens, types, data["merges"]


class Weights:
    """Random tensors; the same seed gives the same file."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def _blocks(self, name: str, rows: int, cols: int, kind: Quantisation, size: int, scales: dict[int, float]) -> None:
        blocks = self._random.integers(0, 256, (rows * cols // BLOCK, size), dtype=np.uint8)
        for offset, scale in scales.items():
            blocks[:, offset : offset + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
        self._writer.add_tensor(name, blocks.reshape(rows, cols // BLOCK * size), raw_dtype=kind)

    def q4(self, name: str, rows: int, cols: int) -> None:
        """Q4_K: scale and minimum lead each block of 144 bytes."""
        self._blocks(name, rows, cols, Quantisation.Q4_K, 144, {0: 1.0e-4, 2: 7.5e-4})

    def q6(self, name: str, rows: int, cols: int) -> None:
        """Q6_K: the scale ends each block of 210 bytes."""
        self._blocks(name, rows, cols, Quantisation.Q6_K, 210, {208: 2.0e-5})

    def ones(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.ones(size, np.float32))


def write_qwen3_shape(path: Path, shape: Shape = PRESETS["tiny"], *, seed: int = 0) -> Path:
    """Writes the file and returns its path."""
    writer = gguf.GGUFWriter(str(path), "qwen3")
    _describe(writer, shape)
    tokens, types, merges = vocabulary()
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    weights = Weights(writer, seed)
    weights.q6("token_embd.weight", len(tokens), shape.hidden)
    weights.ones("output_norm.weight", shape.hidden)
    for layer in range(shape.layers):
        _layer(weights, f"blk.{layer}.", shape, fine=_is_fine(layer, shape.layers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    return path


def _is_fine(layer: int, layers: int) -> bool:
    """Q4_K_M gives the first and last eighth, and every third layer between, the finer type."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("Qwen3 shape, random weights")
    writer.add_block_count(shape.layers)
    writer.add_context_length(40960)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(END)
    writer.add_bos_token_id(END)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template((DATA / "qwen3-chat-template.jinja").read_text())


def _layer(weights: Weights, prefix: str, shape: Shape, *, fine: bool) -> None:
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    better = weights.q6 if fine else weights.q4
    weights.ones(prefix + "attn_norm.weight", shape.hidden)
    weights.ones(prefix + "ffn_norm.weight", shape.hidden)
    weights.ones(prefix + "attn_q_norm.weight", shape.head_dim)
    weights.ones(prefix + "attn_k_norm.weight", shape.head_dim)
    weights.q4(prefix + "attn_q.weight", query, shape.hidden)
    weights.q4(prefix + "attn_k.weight", keys, shape.hidden)
    better(prefix + "attn_v.weight", keys, shape.hidden)
    weights.q4(prefix + "attn_output.weight", shape.hidden, query)
    weights.q4(prefix + "ffn_gate.weight", shape.ff, shape.hidden)
    weights.q4(prefix + "ffn_up.weight", shape.ff, shape.hidden)
    better(prefix + "ffn_down.weight", shape.hidden, shape.ff)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--preset", choices=PRESETS, default="tiny")
    given = arguments.parse_args()
    write_qwen3_shape(given.out, PRESETS[given.preset])
