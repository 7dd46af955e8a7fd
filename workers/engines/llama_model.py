"""A GGUF model as llama.cpp reads it: weights, vocabulary and chat template.

Once loaded, it is only read, so any thread may tokenize and render.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from workers.engines import llama_log
from workers.engines.base import Message
from workers.engines.errors import BadRequestError, ModelUnavailableError
from workers.engines.heads import Heads
from workers.engines.messages import as_text

GGUF_MAGIC = b"GGUF"

LONGEST_PIECE_BYTES = 1024
"""Room for one token's text; the longest in vocabularies of 2026 are runs of 256 spaces."""

LONGEST_VALUE_BYTES = 256
"""Room for one number among a GGUF's metadata."""


class LlamaModel:
    """A loaded GGUF file."""

    def __init__(self, name: str, path: Path, chat_template: str | None = None) -> None:
        """Load a file.

        Args:
            name: of the model.
            path: of the file.
            chat_template: in Jinja; None: the file's own.

        Raises:
            ModelUnavailableError: it is missing, broken or of an unknown kind.
        """
        self.name = name
        self.pointer: Any = load_weights(name, path)
        try:
            self.vocabulary: Any = llama_cpp.llama_model_get_vocab(self.pointer)
            self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
            self.trained_context_tokens: int = llama_cpp.llama_model_n_ctx_train(self.pointer)
            self.end_tokens = frozenset(
                token
                for token in range(self.vocabulary_size)
                if llama_cpp.llama_vocab_is_eog(self.vocabulary, token)
            )
            self._pieces: dict[int, bytes] = {}
            self.heads = Heads(self.render)
            self._bos = self._special_text(llama_cpp.llama_vocab_bos(self.vocabulary))
            self._adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self.vocabulary))
            self._template = self._read_template(path, chat_template)
        except BaseException:
            self.close()
            raise

    @property
    def has_template(self) -> bool:
        """Whether conversations can be written for it."""
        return self._template is not None

    @property
    def kv_bytes_per_token(self) -> int:
        """Estimate what one token takes in a 16-bit key-value cache."""
        layers = llama_cpp.llama_model_n_layer(self.pointer)
        kv_heads = llama_cpp.llama_model_n_head_kv(self.pointer)
        even = llama_cpp.llama_model_n_embd(self.pointer) // max(
            llama_cpp.llama_model_n_head(self.pointer), 1
        )
        key = self._number("attention.key_length", default=even)
        value = self._number("attention.value_length", default=even)
        return 2 * layers * kv_heads * (key + value)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Write a conversation with the chat template and turn it into tokens.

        Raises:
            BadRequestError: the template refuses the conversation, or a part of it is not text.
        """
        if self._template is None:
            raise BadRequestError(self.name, "it has no chat template")
        try:
            prompt: str = self._template(messages=as_text(messages, model=self.name)).prompt  # pyright: ignore[reportArgumentType]
        except (TemplateError, ValueError, TypeError) as error:
            raise BadRequestError(self.name, f"its chat template says: {error}") from error
        # A template that writes the BOS itself must not get a second one from the tokenizer.
        return self.tokenize(prompt, adds_bos=self._adds_bos and not prompt.startswith(self._bos or "\0"))

    def tokenize(self, text: str, *, adds_bos: bool) -> list[int]:
        """Turn text into tokens; the names of special tokens in it become those tokens."""
        return tokens_in(text, self.vocabulary, model=self.name, adds_special=adds_bos, reads_special=True)

    def piece(self, token: int) -> bytes:
        """Give a token's bytes; special tokens have none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._text_of(token, special=False)
        return piece

    def close(self) -> None:
        """Free the weights."""
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None

    def _read_template(self, path: Path, named: str | None) -> Jinja2ChatFormatter | None:
        raw = named.encode() if named else llama_cpp.llama_model_chat_template(self.pointer, None)
        if not raw:
            return None
        try:
            return Jinja2ChatFormatter(  # renders in Jinja's sandbox
                template=raw.decode(),
                eos_token=self._special_text(llama_cpp.llama_vocab_eos(self.vocabulary)),
                bos_token=self._bos,
            )
        except (TemplateError, UnicodeDecodeError) as error:
            where = "in models.yaml" if named else f"of {path.name}"
            why = f"its chat template {where} cannot be read: {error}"
            raise ModelUnavailableError(self.name, why) from error

    def _special_text(self, token: Any) -> str:  # noqa: ANN401 - llama_cpp says c_int32, and gives int
        """Give the name of a special token; llama.cpp calls one that does not exist -1."""
        return "" if token < 0 else self._text_of(token, special=True).decode(errors="replace")

    def _text_of(self, token: int, *, special: bool) -> bytes:
        room = ctypes.create_string_buffer(LONGEST_PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self.vocabulary, token, room, LONGEST_PIECE_BYTES, 0, special)
        return room.raw[: max(length, 0)]

    def _number(self, key: str, *, default: int) -> int:
        architecture = self._value("general.architecture")
        value = self._value(f"{architecture}.{key}")
        return int(value) if value.isdecimal() else default

    def _value(self, key: str) -> str:
        room: Any = ctypes.create_string_buffer(LONGEST_VALUE_BYTES)
        length = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), room, LONGEST_VALUE_BYTES)
        return room.value.decode(errors="replace") if length >= 0 else ""


def tokens_in(
    text: str,
    vocabulary: Any,  # noqa: ANN401 - a bare pointer
    *,
    model: str,
    adds_special: bool,
    reads_special: bool,
) -> list[int]:
    """Turn text into tokens.

    Args:
        text: may hold what UTF-8 cannot.
        vocabulary: the model's.
        model: its name.
        adds_special: whether the model's own first and last tokens are put around it.
        reads_special: whether the names of special tokens in it become those tokens.
    """
    raw = text.encode(errors="replace")
    room = len(raw) + 8
    tokens = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), tokens, room, adds_special, reads_special)
    if count < 0:
        raise BadRequestError(model, f"its tokenizer makes more than {room} tokens of {len(raw)} bytes")
    return tokens[:count]


def load_weights(name: str, path: Path) -> Any:  # noqa: ANN401 - ctypes has no type for a bare pointer
    """Load a file's weights.

    Raises:
        ModelUnavailableError: the file is missing, broken or of an unknown kind.
    """
    start_llama()
    check_magic(name, path)
    llama_log.errors.clear()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0  # the GPU, where there is one, belongs to the mlx engine
    pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not pointer:
        why = f"llama.cpp cannot load {path.name}: {llama_log.first_error()}"
        raise ModelUnavailableError(name, why)
    return pointer


def check_magic(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelUnavailableError(name, f"{path} cannot be read: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise ModelUnavailableError(name, f"{path.name} is not a GGUF file; fetch it again")


@cache
def start_llama() -> None:
    """Start llama.cpp, once in a process."""
    llama_log.silence()
    llama_cpp.llama_backend_init()
