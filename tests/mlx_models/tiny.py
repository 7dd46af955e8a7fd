"""A chat model of 0.4 MB: a Llama with random weights, whose tokens are single bytes.

What it says is noise, but the same noise each time, and different for each prompt: enough to see whether
answers are mixed up, cut or lost.

`python -m tests.mlx_models.tiny FOLDER` makes one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CONTEXT_TOKENS = 4096


def make(folder: Path, *, seed: int = 1) -> Path:
    """Write the model's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT_TOKENS,
        "vocab_size": len(SPECIAL) + len(alphabet),
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    mx.random.seed(seed)
    parameters: Any = tree_flatten(Model(ModelArgs.from_dict(config)).parameters())
    weights: dict[str, mx.array] = {
        name: mx.random.normal(value.shape) * scale_of(name, value) if value.ndim > 1 else value
        for name, value in parameters
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_of(alphabet).save(str(folder / "tokenizer.json"))
    write_tokenizer_config(folder, bos="<|im_start|>", eos="<|im_end|>", template=CHAT_TEMPLATE)
    return folder


def scale_of(name: str, value: mx.array) -> float:
    """Choose how large random weights are.

    With these, 40 prompts that differ in a digit got 39 different answers, and a few of them an end.
    """
    if "embed" in name:
        return 1.0
    factor = 4.0 if "lm_head" in name else 2.0 if "self_attn" in name else 1.0
    return factor * value.shape[-1] ** -0.5


def tokenizer_of(alphabet: list[str]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def write_tokenizer_config(folder: Path, *, bos: str, eos: str, template: str, **more: object) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
