"""An MLX model as mlx-lm loads it: weights, tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache

from workers.engines.base import Message
from workers.engines.errors import BadRequestError, ModelUnavailableError
from workers.engines.heads import Heads
from workers.engines.messages import as_text
from workers.engines.mlx_json import JsonRules

KV_STEP_TOKENS = 256
"""MLX gives a key-value cache room for so many tokens at a time."""


class MlxModel:
    """A loaded model; loaded and stepped by one thread, while any thread may render."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load a folder, and take a first step with it.

        Raises:
            ModelUnavailableError: it is broken, of an unknown kind or not a chat model.
        """
        self.name = name
        self.weights, self.tokenizer, config = load_folder(name, folder)
        if not self.tokenizer.has_chat_template:
            why = f"{folder.name} has no chat template, so it is no chat model; choose its instruct version"
            raise ModelUnavailableError(name, why)
        self.trained_context_tokens = trained_context_tokens(config)
        self.end_tokens: frozenset[int] = frozenset(self.tokenizer.eos_token_ids)
        self.silent_tokens: frozenset[int] = frozenset(
            number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special
        )
        """Those that mark parts of a conversation, and are no text."""
        self.vocabulary_size, self.kv_bytes_per_token = self._first_step()
        self.heads = Heads(self.render)
        self._rendering = Lock()
        self._rules: JsonRules | None = None

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Write a conversation with the chat template and turn it into tokens.

        Models that can think aloud first are told not to: a profile's max_tokens is meant for the answer.

        Raises:
            BadRequestError: the template refuses the conversation, or a part of it is not text.
        """
        texts = as_text(messages, model=self.name)
        try:
            with self._rendering:
                return list(
                    self.tokenizer.apply_chat_template(
                        texts, add_generation_prompt=True, enable_thinking=False
                    )
                )
        except Exception as error:
            # Templates are programs: they raise what they like.
            raise BadRequestError(self.name, f"its chat template says: {error}") from error

    def rules(self) -> JsonRules:
        """Give what constrains answers to a schema; made at the first use."""
        with self._rendering:
            if self._rules is None:
                inner = self.tokenizer._tokenizer  # noqa: SLF001 - llguidance does not know the wrapper
                self._rules = JsonRules(self.name, inner, sorted(self.end_tokens), self.vocabulary_size)
            return self._rules

    def detokenizer(self) -> Any:  # noqa: ANN401 - one of mlx-lm's
        """Make what turns the tokens of one answer into text."""
        return self.tokenizer.detokenizer

    def _first_step(self) -> tuple[int, int]:
        """Read one token, to see how large the logits and the key-value cache are."""
        caches: list[Any] = make_prompt_cache(self.weights)
        if not all(hasattr(each, "merge") for each in caches):
            why = "its kind of key-value cache cannot hold several answers at once; choose another model"
            raise ModelUnavailableError(self.name, why)
        try:
            logits: mx.array = self.weights(mx.array([[min(self.end_tokens, default=0)]]), cache=caches)
            mx.eval(logits)
        except Exception as error:
            raise ModelUnavailableError(self.name, f"MLX cannot run it: {first_line(error)}") from error
        return logits.shape[-1], sum(each.nbytes for each in caches) // KV_STEP_TOKENS


def load_folder(name: str, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Load weights, tokenizer and config; from the disk only, and without code that comes with the model.

    Raises:
        ModelUnavailableError: MLX cannot.
    """
    if not (folder / "config.json").is_file():
        raise ModelUnavailableError(name, f"{folder} has no config.json, so it is no MLX model")
    try:
        weights, tokenizer, config = load(str(folder), return_config=True)  # pyright: ignore[reportAssignmentType]
    except Exception as error:
        # Of many types: a file that is cut, a kind of model that is unknown, memory that is short.
        why = f"MLX cannot load {folder.name}: {first_line(error)}"
        raise ModelUnavailableError(name, why) from error
    return weights, tokenizer, config


def trained_context_tokens(config: dict[str, Any]) -> int | None:
    """Read how many tokens a model was trained to read; None: it does not say."""
    found = config.get("max_position_embeddings") or (config.get("text_config") or {}).get(
        "max_position_embeddings"
    )
    return int(found) if found else None


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
