"""How much memory MLX may take: a Mac's GPU shares it with everything else that runs."""

from typing import Any

import mlx.core as mx
import psutil

KV_SHARE = 0.5
"""Of the memory that is free once the weights are loaded: what key-value caches may take."""

MOST_CACHE_BYTES = 512_000_000
"""Freed buffers that MLX keeps for its next step; its own default on a Mac is all memory that it may use."""


def limit_memory() -> None:
    """Keep MLX from holding what others need; on a processor its own limits are small already.

    What it does use is wired, so that macOS does not page it out: mlx-lm's generator sees to that, up to
    what Metal recommends.
    """
    recommended = metal_bytes()
    if recommended:
        mx.set_memory_limit(recommended)
        mx.set_cache_limit(min(MOST_CACHE_BYTES, recommended // 16))


def kv_budget_bytes() -> int:
    """Say how much key-value caches may take, once the weights are loaded."""
    free = psutil.virtual_memory().available
    recommended = metal_bytes()
    if recommended:
        free = min(free, recommended - mx.get_active_memory())
    return max(int(free * KV_SHARE), 0)


def metal_bytes() -> int | None:
    """Tell how much memory Metal recommends to use at most; None: there is no Metal."""
    if not mx.metal.is_available():
        return None
    found: dict[str, Any] = mx.device_info()
    return int(found["max_recommended_working_set_size"])
