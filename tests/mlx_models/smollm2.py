"""SmolLM2 135M Instruct as an MLX model, made of the GGUF that the starter model is.

MLX reads a GGUF's 4-bit and 8-bit weights as its own kind of quantised weights. On a processor they are
slow, so they are written out as 32-bit floats: the same numbers, 0.5 GB.

`python -m tests.mlx_models.smollm2 FOLDER` makes one; it fetches the GGUF as `fleet pull smollm2` does.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG
from tests.mlx_models.tiny import write_tokenizer_config
from workers.model_files import pull

HUGGING_FACE_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

CONTROL = 3
"""GGUF's type of a special token."""


def make(folder: Path) -> Path:
    """Write the model's files into a folder, unless they are there."""
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    read: tuple[dict[str, mx.array], dict[str, Any]] = mx.load(str(gguf()), return_metadata=True)  # pyright: ignore[reportAssignmentType]
    arrays, metadata = read
    (folder / "config.json").write_text(json.dumps(config_of(metadata)))
    tokenizer_of(metadata).save(str(folder / "tokenizer.json"))
    write_tokenizer_config(
        folder, bos="<|im_start|>", eos="<|im_end|>", template=metadata["tokenizer.chat_template"]
    )
    aside = folder / "aside.safetensors"  # renamed last: its name says that the folder is whole
    mx.save_safetensors(str(aside), weights_of(arrays, metadata), metadata={"format": "mlx"})
    aside.rename(folder / "model.safetensors")
    return folder


def gguf() -> Path:
    """Fetch the starter model, if it is not here."""
    return pull(load_catalog(SHIPPED_CONFIG).model("smollm2"), lambda *_: None).path


def config_of(metadata: dict[str, Any]) -> dict[str, Any]:
    def number(key: str) -> Any:
        return metadata[f"llama.{key}"].item()

    heads, width = number("attention.head_count"), number("embedding_length")
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": width // heads,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": number("vocab_size"),
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def weights_of(arrays: dict[str, mx.array], metadata: dict[str, Any]) -> dict[str, mx.array]:
    """Write quantised weights out, under the names that mlx-lm knows."""
    heads = {
        "attn_q": metadata["llama.attention.head_count"].item(),
        "attn_k": metadata["llama.attention.head_count_kv"].item(),
    }
    weights: dict[str, mx.array] = {}
    for name, array in arrays.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        whole = array
        if array.dtype == mx.uint32:
            scales, biases = arrays[f"{stem}.scales"], arrays[f"{stem}.biases"]
            group = 32
            bits = array.shape[-1] * 32 // (scales.shape[-1] * group)
            whole = mx.dequantize(array, scales, biases, group_size=group, bits=bits)
        part = stem.rpartition(".")[2]
        if part in heads:
            whole = in_halves(whole, heads[part])
        weights[f"{hugging_face_name(stem)}.weight"] = whole.astype(mx.float32)
    return weights


def hugging_face_name(stem: str) -> str:
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if block:
        return f"model.layers.{block[1]}.{HUGGING_FACE_NAMES[block[2]]}"
    return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[stem]


def in_halves(rows: mx.array, heads: int) -> mx.array:
    """Lay the rows of a head out as MLX turns them: llama.cpp has the pairs of a rotation side by side."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def tokenizer_of(metadata: dict[str, Any]) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges: list[str] = metadata["tokenizer.ggml.merges"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"].tolist()
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
