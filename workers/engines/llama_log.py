"""What llama.cpp says while it works: kept for error messages instead of printed."""

import ctypes
from collections import deque

import llama_cpp

ERROR_LEVEL = 4
"""ggml's GGML_LOG_LEVEL_ERROR."""

KEPT_LINES = 20

errors: deque[str] = deque(maxlen=KEPT_LINES)
"""The last error lines, oldest first. llama.cpp has one log for the process."""


@llama_cpp.llama_log_callback
def keep(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    """Keep an error line, drop the rest; at module level, because llama.cpp holds the bare pointer."""
    line = text.decode(errors="replace").strip()
    if level == ERROR_LEVEL and line:
        errors.append(line)


def silence() -> None:
    """Take llama.cpp's log away from stderr."""
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))


def first_error() -> str:
    """Give the first line kept: those after it say only that what follows failed too."""
    return errors[0] if errors else "it gave no reason"
