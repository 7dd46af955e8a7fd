"""Proof that this build of llama.cpp can run a model file, and how: in a child process that may die of it.

llama.cpp compiled with some compilers crashes at the first step, and so may a damaged file; either
would take the worker and all its attempts along. The model's own file is used for the proof, rather
than a tiny one made for it: it proves the file too, and a trial with it finds what is the fastest here. A
proof is kept for as long as neither the file nor the build nor the processor changes.

`python -m workers.engines.llama_check NAME FILE PROOF` is the child.
"""

import hashlib
import json
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from config.models import Model
from config.settings import settings
from workers.absence import Absence
from workers.engines.errors import ModelUnavailableError
from workers.engines.llama_tuning import Tuning

TIME_LIMIT_S = 300.0
"""A step takes seconds; reading 10 GB from a slow disk takes minutes."""

REFUSED = 3
"""The child's exit status for a file that llama.cpp refuses; its output says why."""

REBUILD = "run `make clean env` to build it for this machine"


@dataclass(frozen=True)
class Proof:
    """That a model runs here."""

    name: str
    path: str
    tuning: Tuning
    weights_bytes: int
    """What it takes in memory once it is loaded, without any context; measured."""
    has_template: bool
    """Whether the file has a chat template."""


def prove_model(model: Model) -> Proof:
    """Prove that a model of the catalog runs here.

    Raises:
        ModelUnavailableError: it is not here, or does not run; says why and what to do.
    """
    from workers.model_files import locate  # noqa: PLC0415 - it asks this module what was proven

    found = locate(model)
    if isinstance(found, Absence):
        raise ModelUnavailableError(model.name, str(found))
    proof = prove(model.name, found.path)
    if not (proof.has_template or model.chat_template):
        raise no_template(model.name, found.path)
    return proof


def no_template(name: str, path: Path) -> ModelUnavailableError:
    why = (
        f"{path.name} has no chat template, so it is no chat model; choose its instruct version, or give it "
        "one with chat_template in models.yaml"
    )
    return ModelUnavailableError(name, why)


def prove(name: str, path: Path, child: str = "workers.engines.llama_check") -> Proof:
    """Prove that a model runs here and find out how, unless that was done before.

    Args:
        name: of the model.
        path: of its file.
        child: the module that is run for it.

    Raises:
        ModelUnavailableError: it does not run; says why and what to do.
    """
    if find_spec("llama_cpp") is None:
        raise ModelUnavailableError(name, "llama-cpp-python is not installed; install the extra `cpu`")
    known = proven(path)
    if known is not None:
        return known
    kept = place_of(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as aside:
        part = Path(aside, "proof")
        why = fault_of([sys.executable, "-m", child, name, str(path), str(part)])
        if why is not None:
            raise ModelUnavailableError(name, why)
        part.replace(kept)
    return read_proof(kept)


def proven(path: Path) -> Proof | None:
    """Give the proof of a file, if there is one that still holds."""
    try:
        return read_proof(place_of(path))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def place_of(path: Path) -> Path:
    return settings().models / ".proven" / mark_of(path)


def read_proof(kept: Path) -> Proof:
    stored: dict[str, Any] = json.loads(kept.read_text())
    tuning = Tuning(**stored.pop("tuning"))
    return Proof(tuning=tuning, **stored)


def fault_of(command: Sequence[str], time_limit_s: float = TIME_LIMIT_S) -> str | None:
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
    parts = [platform.node(), sys.prefix, *processor()]
    library = find_spec("llama_cpp")
    build = sorted((Path(library.origin).parent / "lib").glob("*")) if library and library.origin else []
    for file in (path.resolve(), *build):
        state = file.stat()
        parts.append(f"{file} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def processor() -> list[str]:
    """Describe this host's processor: an environment may move to another one, and a virtual machine too."""
    told = [platform.machine(), str(psutil.cpu_count(logical=False))]
    with suppress(OSError):  # macOS has no such file, and its processor does not change
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "Features", "CPU part")
        told += sorted({line for line in lines if line.startswith(names)})
    return told


def decode_once(name: str, path: Path) -> Proof:
    """Load a model, let it read a few tokens, some in one sequence and some in another, and try what is fast.

    Raises:
        ModelUnavailableError: llama.cpp refuses the file, or the step fails.
    """
    from workers.engines.llama_context import LlamaContext  # noqa: PLC0415 - the parent loads no llama.cpp
    from workers.engines.llama_model import LlamaModel  # noqa: PLC0415
    from workers.engines.llama_trial import find_tuning  # noqa: PLC0415

    before = psutil.Process().memory_info().rss
    model = LlamaModel(name, path)
    weights_bytes = psutil.Process().memory_info().rss - before
    context = LlamaContext(model, context_tokens=256, sequences=2)
    prompt = model.tokenize("One two three four five six seven eight.", adds_bos=True)
    for sequence in range(2):
        context.batch.add(prompt, position=0, sequence=sequence, wants_logits=True)
    status = context.decode()
    if status:
        raise ModelUnavailableError(name, f"llama.cpp failed at its first step with status {status}")
    context.close()
    tuning = find_tuning(model)
    model.close()
    return Proof(name, str(path), tuning, weights_bytes, model.has_template)


def main(proof_of: Callable[[str, Path], Proof] = decode_once) -> None:
    """Run the proof; the exit status says how it went."""
    name, path, kept = sys.argv[1:]
    try:
        Path(kept).write_text(json.dumps(asdict(proof_of(name, Path(path)))))
    except ModelUnavailableError as error:
        print(json.dumps(error.why))  # noqa: T201 - read by the parent
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
