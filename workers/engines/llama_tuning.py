"""How llama.cpp is run: what `workers.engines.llama_trial` finds, and the engine follows."""

from dataclasses import dataclass
from typing import Literal

KvType = Literal["f16", "bf16"]


@dataclass(frozen=True)
class Tuning:
    """How llama.cpp is run on this processor; the defaults were never the slowest where it was measured."""

    flash_attention: bool = False
    kv_type: KvType = "f16"
    is_shared: bool = False
    """Whether all sequences share one cache; else each has room of its own, where there is memory for it."""


USUAL = Tuning()
