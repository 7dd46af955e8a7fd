"""Proof that this build of llama.cpp can run a model file, in a child process that may die of it.

llama.cpp compiled with some compilers crashes at the first step, and so may a damaged file; either
would take the worker and all its attempts along. The model's own file is used for the proof, rather
than a tiny one made for it: it proves the file too. A proof is kept for as long as neither the file
nor the build changes.

`python -m workers.engines.llama_check NAME FILE` is the child.
"""

import hashlib
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from config.settings import settings
from workers.engines.errors import ModelUnavailableError

TIME_LIMIT_S = 300.0
"""A step takes seconds; reading 10 GB from a slow disk takes minutes."""

REFUSED = 3
"""The child's exit status for a file that llama.cpp refuses; its output says why."""

REBUILD = "run `make clean env` to build it for this machine"


def check_decode(name: str, path: Path, child: str = "workers.engines.llama_check") -> None:
    """Prove that a model runs here, unless that was proven before.

    Args:
        name: of the model.
        path: of its file.
        child: the module that is run for it.

    Raises:
        ModelUnavailableError: it does not run; says why and what to do.
    """
    if find_spec("llama_cpp") is None:
        raise ModelUnavailableError(name, "llama-cpp-python is not installed; install the extra `cpu`")
    proof = settings().models / ".proven" / mark_of(path)
    if proof.exists():
        return
    why = fault_of([sys.executable, "-m", child, name, str(path)], TIME_LIMIT_S)
    if why is not None:
        raise ModelUnavailableError(name, why)
    proof.parent.mkdir(parents=True, exist_ok=True)
    proof.write_text(f"{name} {path}\n")


def fault_of(command: Sequence[str], time_limit_s: float) -> str | None:
    """Run a child and say what is wrong by how it ended; None: nothing is."""
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=time_limit_s,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"llama.cpp made no step within {time_limit_s:.0f} s; {REBUILD}, or choose a smaller model"
    if child.returncode == 0:
        return None
    if child.returncode == REFUSED:
        return json.loads(child.stdout)
    if child.returncode < 0:
        crash = signal.Signals(-child.returncode).name
        return f"llama.cpp crashes with it ({crash}); {REBUILD}; if it still does, fetch the file again"
    last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"llama.cpp does not start ({last}); {REBUILD}"


def mark_of(path: Path) -> str:
    """Name the proof for a file, this build of llama.cpp and this machine."""
    parts = [platform.node(), platform.machine(), sys.prefix]
    library = find_spec("llama_cpp")
    build = sorted((Path(library.origin).parent / "lib").glob("*")) if library and library.origin else []
    for file in (path.resolve(), *build):
        state = file.stat()
        parts.append(f"{file} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def decode_once(name: str, path: Path) -> None:
    """Load a model and let it read a few tokens, some in one sequence and some in another.

    Raises:
        ModelUnavailableError: llama.cpp refuses the file, or the step fails.
    """
    from workers.engines.llama_context import LlamaContext  # noqa: PLC0415 - the parent loads no llama.cpp
    from workers.engines.llama_model import LlamaModel  # noqa: PLC0415

    model = LlamaModel(name, path)
    context = LlamaContext(model, context_tokens=256, sequences=2)
    prompt = model.tokenize("One two three four five six seven eight.", adds_bos=True)
    for sequence in range(2):
        context.batch.add(prompt, position=0, sequence=sequence, wants_logits=True)
    status = context.decode()
    if status:
        raise ModelUnavailableError(name, f"llama.cpp failed at its first step with status {status}")
    context.close()
    model.close()


def main(prove: Callable[[str, Path], None] = decode_once) -> None:
    """Run the proof; the exit status says how it went."""
    name, path = sys.argv[1:]
    try:
        prove(name, Path(path))
    except ModelUnavailableError as error:
        print(json.dumps(error.why))  # noqa: T201 - read by the parent
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
