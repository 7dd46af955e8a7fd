"""OpenBLAS in front of the slow BLAS that MLX's wheel for Linux brings: prefill is several times faster.

The system's own is taken, where it has one. Else the one inside numpy's wheel is: its functions have other
names and count in 64 bits, so a few lines of C, compiled once, hand MLX's calls over to it.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

SYSTEM = ("libopenblas.so.0",)

BRIDGE = """
#include <stdint.h>
void scipy_cblas_sgemm64_(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                          const float *, int64_t, float, float *, int64_t);
void cblas_sgemm(int order, int left, int right, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    scipy_cblas_sgemm64_(order, left, right, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
"""


def put_in_front() -> str:
    """Load one before MLX is imported; says which, or that there is none.

    It uses one thread, unless OPENBLAS_NUM_THREADS says more: with two, whatever else runs on the machine
    made each step several times longer.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.platform != "linux":
        return "not needed here"
    for name in SYSTEM:
        with suppress(OSError):
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            return f"the system's {name}"
    library = in_numpy()
    compiler = shutil.which("cc")
    if library is None or compiler is None:
        return "none: MLX's own BLAS, which is several times slower (apt install libopenblas0-pthread)"
    ctypes.CDLL(str(bridge_to(library, compiler)), ctypes.RTLD_GLOBAL)
    return f"numpy's {library.name}"


def in_numpy() -> Path | None:
    """Find the OpenBLAS that numpy's wheel ships."""
    numpy = find_spec("numpy")
    if numpy is None or numpy.origin is None:
        return None
    return next((Path(numpy.origin).parents[1] / "numpy.libs").glob("libscipy_openblas64_*.so"), None)


def bridge_to(library: Path, compiler: str) -> Path:
    """Compile the bridge, unless that was done before for this library."""
    mark = hashlib.sha256(f"{BRIDGE}{library}".encode()).hexdigest()[:16]
    made = Path(__file__).parents[1] / ".cache" / f"openblas-{mark}.so"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        aside = made.with_suffix(".part")
        command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-x", "none", str(library)]
        command += [f"-Wl,-rpath,{library.parent}", "-o", str(aside)]
        subprocess.run(command, input=BRIDGE.encode(), check=True)
        aside.rename(made)
    return made
