"""Whether this host can run MLX models: Apple silicon, its GPU, and the library. Offline, in milliseconds."""

import platform
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from config.settings import settings
from workers.absence import Absence

LIBRARIES = ("mlx", "mlx_lm", "llguidance")

INSTALL = "`pip install 'aria-fleet[mlx]'`"

Lack = Literal["no_mac", "no_library", "no_metal"]


@dataclass(frozen=True)
class MlxHost:
    """What MLX needs of a host."""

    system: str
    """As Python's platform.system() says it."""
    machine: str
    is_installed: bool
    fault: str | None = None
    """Why the library does not load; None: it does, or was not tried."""
    metal_bytes: int | None = None
    """Memory that Metal recommends to use at most; None: there is no Metal."""

    @property
    def is_apple_silicon(self) -> bool:
        return self.system == "Darwin" and self.machine == "arm64"


@dataclass(frozen=True)
class HostLack(Absence):
    """What a host lacks for MLX."""

    lack: Lack


def lack_of_mlx() -> HostLack | None:
    """Say why this host cannot run MLX models, and what to do; None: it can."""
    return judge(this_host(), on_cpu=settings().mlx_on_cpu)


def this_host() -> MlxHost:
    """Look at this host; MLX is imported only where it may run."""
    return look(on_cpu=settings().mlx_on_cpu)


@cache
def look(*, on_cpu: bool) -> MlxHost:
    """Look at the host, once in a process."""
    here = MlxHost(platform.system(), platform.machine(), all(map(find_spec, LIBRARIES)))
    if not here.is_installed or not (here.is_apple_silicon or on_cpu):
        return here
    try:
        import mlx.core as mx  # noqa: PLC0415 - 0.1 s, and only where it can be of use
    except ImportError as error:
        return replace(here, fault=str(error))
    if not mx.metal.is_available():
        return here
    device: dict[str, Any] = mx.device_info()
    return replace(here, metal_bytes=int(device["max_recommended_working_set_size"]))


def judge(host: MlxHost, *, on_cpu: bool) -> HostLack | None:
    """Say what a host lacks.

    Args:
        on_cpu: whether MLX may run without a Mac's GPU.
    """
    if not host.is_apple_silicon and not on_cpu:
        what = "this Mac has none" if host.system == "Darwin" else "this host is not one"
        return HostLack(f"MLX needs a Mac with Apple silicon, and {what}", "serve it from one", "no_mac")
    if not host.is_installed:
        return HostLack("MLX is not installed", INSTALL, "no_library")
    if host.fault:
        return HostLack(f"MLX does not load ({host.fault})", f"install it again: {INSTALL}", "no_library")
    if host.metal_bytes is None and not on_cpu:
        return HostLack(
            "macOS gives this process no GPU (Metal)",
            "run it in a user's session on the Mac itself, on macOS 14 or newer",
            "no_metal",
        )
    return None
