"""A GGUF shaped like Qwen3, with its real vocabulary and template and random weights: right speed, no sense.

python -m tests.models.qwen3_shape OUT --preset tiny|4b
"""

import argparse
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, TokenType

DATA = Path(__file__).parent / "data" / "qwen3.xz"
VOCABULARY = 151_936
CONTROL = {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"}
THINKING = {151667: "<think>", 151668: "</think>"}
BLOCK_BYTES = {Kind.Q4_K: 144, Kind.Q6_K: 210}
PRESETS = {
    "tiny": {"layers": 2, "hidden": 256, "ff": 512, "heads": 4, "kv_heads": 2, "head_dim": 64},
    "4b": {"layers": 36, "hidden": 2560, "ff": 9728, "heads": 32, "kv_heads": 8, "head_dim": 128},
}


def blocks(rng: np.random.Generator, kind: Kind, rows: int, columns: int) -> np.ndarray:
    """Random quants under fixed, small scales."""
    size = BLOCK_BYTES[kind]
    raw = np.frombuffer(rng.bytes(rows * columns // 256 * size), np.uint8).reshape(-1, size).copy()
    if kind is Kind.Q4_K:
        raw[:, :4] = np.array([1e-4, 7.5e-4], np.float16).view(np.uint8)  # scale and minimum
    else:
        raw[:, -2:] = np.array([2e-5], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def tensors(layers: int, hidden: int, ff: int, q: int, kv: int) -> Iterator[tuple[str, Kind, int, int]]:
    """Names, types and shapes as Q4_K_M mixes them: some layers keep more of attn_v and ffn_down."""
    yield "token_embd", Kind.Q6_K, VOCABULARY, hidden
    for layer in range(layers):
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        better = Kind.Q6_K if more else Kind.Q4_K
        for name, kind, rows, columns in (
            ("attn_q", Kind.Q4_K, q, hidden), ("attn_k", Kind.Q4_K, kv, hidden),
            ("attn_v", better, kv, hidden), ("attn_output", Kind.Q4_K, hidden, q),
            ("ffn_gate", Kind.Q4_K, ff, hidden), ("ffn_up", Kind.Q4_K, ff, hidden),
            ("ffn_down", better, hidden, ff),
        ):  # fmt: skip
            yield f"blk.{layer}.{name}", kind, rows, columns


def norms(layers: int, hidden: int, head_dim: int) -> Iterator[tuple[str, int]]:
    yield "output_norm", hidden
    for layer in range(layers):
        for name, size in (("attn", hidden), ("ffn", hidden), ("attn_q", head_dim), ("attn_k", head_dim)):
            yield f"blk.{layer}.{name}_norm", size


def add_vocabulary(writer: GGUFWriter) -> None:
    letters, merges, template = lzma.decompress(DATA.read_bytes()).decode().split("\0")
    pairs = merges.split("\n")
    tokens = [*letters.split("\n"), *(pair.replace(" ", "") for pair in pairs)]
    types = [TokenType.NORMAL] * len(tokens)
    for token in range(len(tokens), VOCABULARY):
        known = CONTROL.get(token) or THINKING.get(token)
        tokens.append(known or f"[PAD{token}]")
        types.append(TokenType.CONTROL if token in CONTROL else TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(pairs)
    writer.add_eos_token_id(151645)
    writer.add_pad_token_id(151643)
    writer.add_bos_token_id(151643)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def write_qwen3_shape(
    path: Path, *, layers: int, hidden: int, ff: int, heads: int, kv_heads: int, head_dim: int, seed: int = 0
) -> None:
    """Writes the file. `hidden`, `ff` and heads times head_dim must be multiples of 256."""
    writer, rng = GGUFWriter(path, "qwen3"), np.random.default_rng(seed)
    writer.add_name("Qwen3 shape, random weights")
    writer.add_block_count(layers)
    writer.add_context_length(40960)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(15)
    add_vocabulary(writer)
    for name, kind, rows, columns in tensors(layers, hidden, ff, heads * head_dim, kv_heads * head_dim):
        writer.add_tensor(f"{name}.weight", blocks(rng, kind, rows, columns), raw_dtype=kind)
    for name, size in norms(layers, hidden, head_dim):
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    chosen = parser.parse_args()
    write_qwen3_shape(chosen.out, **PRESETS[chosen.preset])


if __name__ == "__main__":
    main()
