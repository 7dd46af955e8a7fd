"""A real embedding model, small enough to be made for each test run: nomic's architecture, weights by chance.

With random weights a text is what its words are: texts that share words are near each other. That is enough
to tell right results from wrong ones.
"""

from pathlib import Path

import gguf
import numpy as np

DIMENSIONS = 64
CONTEXT_TOKENS = 128
LAYERS = 2
HEADS = 4
FEED_FORWARD = 128

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'_-"
WORDS = (
    "search query document classification clustering the a an of in on and is it cat dog sits sleeps outside "
    "lawn house plays guitar piano music song pasta pizza soup cooks eats film movie queue message worker"
)
PHANTOM_SPACE = "\u2581"
"""How a GGUF writes that a token begins a word."""


def vocabulary() -> list[str]:
    begins = [f"{PHANTOM_SPACE}{text}" for text in (*WORDS.split(), *LETTERS)]
    return list(dict.fromkeys([*SPECIAL, *begins, *LETTERS]))


def make_embedding_model(path: Path, *, pooling: gguf.PoolingType = gguf.PoolingType.MEAN) -> Path:
    """Write the model: about half a megabyte, the same each time."""
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "nomic-bert")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(DIMENSIONS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_rope_freq_base(1000.0)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    )
    for add, token in (
        (writer.add_pad_token_id, "[PAD]"),
        (writer.add_unk_token_id, "[UNK]"),
        (writer.add_bos_token_id, "[CLS]"),
        (writer.add_eos_token_id, "[SEP]"),
        (writer.add_sep_token_id, "[SEP]"),
        (writer.add_mask_token_id, "[MASK]"),
    ):
        add(tokens.index(token))
    chance = np.random.default_rng(7)
    for name, shape in shapes(len(tokens)).items():
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        elif name.endswith(".bias"):
            values = np.zeros(shape)
        else:
            # The words say more than what the layers make of them.
            values = chance.normal(0, 1.0 if name == "token_embd.weight" else 0.05, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes(words: int) -> dict[str, tuple[int, ...]]:
    wide, deep = DIMENSIONS, FEED_FORWARD
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (words, wide),
        "token_types.weight": (2, wide),
        "token_embd_norm.weight": (wide,),
        "token_embd_norm.bias": (wide,),
    }
    for layer in range(LAYERS):
        block = {
            "attn_qkv.weight": (3 * wide, wide),
            "attn_output.weight": (wide, wide),
            "attn_output_norm.weight": (wide,),
            "attn_output_norm.bias": (wide,),
            "ffn_up.weight": (deep, wide),
            "ffn_gate.weight": (deep, wide),
            "ffn_down.weight": (wide, deep),
            "layer_output_norm.weight": (wide,),
            "layer_output_norm.bias": (wide,),
        }
        found |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return found
