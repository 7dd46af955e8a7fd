"""llama.cpp's own server, as something to compare with: built once, from the sources of this environment.

The sources are those that llama-cpp-python ships, the compiler and its flags those of `make env`, so that
both sides run the same kernels. The binary is kept in this user's cache, under the key of that build.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx

from build.llama import (
    AMX_FIX,
    build_environment,
    build_key,
    find_compiler,
    needs_amx_fix,
    pinned_requirement,
    predefined_macros,
)

ROOT = Path(__file__).parents[1]
KEPT = Path.home() / ".cache/aria-fleet/llama-server"

CMAKE_SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",  # one file to keep
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}

START_S = 60.0
ANSWER_S = 300.0


class LlamaServer:
    """The server on a port of this machine, with a number of slots."""

    def __init__(self, model: Path, slots: int, context_tokens: int, options: Sequence[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port: int = found.getsockname()[1]
        layout = ("--parallel", str(slots), "--ctx-size", str(slots * context_tokens))
        listening = ("--host", "127.0.0.1", "--port", str(port), "--no-webui")
        command = [str(llama_server()), "--model", str(model), *layout, *listening, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S)
        self.callers = ThreadPoolExecutor(64)

    def __enter__(self) -> Self:
        """Wait until it answers."""
        end = time.monotonic() + START_S
        while True:
            try:
                if self.client.get("/health").is_success:
                    return self
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                message = "llama-server does not start"
                raise ChildProcessError(message)
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.client.close()
        self.callers.shutdown()

    def tokens_per_s(self, conversations: Sequence[Any], max_tokens: int) -> float:
        """Ask all at once, for answers of the full length."""
        began = time.perf_counter()
        tokens = sum(self.callers.map(lambda messages: self.ask(messages, max_tokens), conversations))
        return tokens / (time.perf_counter() - began)

    def ask(self, messages: Any, max_tokens: int) -> int:  # noqa: ANN401 - JSON
        """Ask; the tokens of the answer."""
        asked = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        answer = self.client.post("/v1/chat/completions", json=asked).raise_for_status().json()
        return answer["usage"]["completion_tokens"]


def llama_server() -> Path:
    """Find the server that belongs to this environment's llama.cpp, or build it: minutes, once.

    Raises:
        FileNotFoundError: there is no compiler or no cmake.
    """
    compiler = find_compiler()
    if compiler is None or shutil.which("cmake") is None:
        message = "llama-server is compiled here and needs cmake and a C++ compiler; install both"
        raise FileNotFoundError(message)
    macros = predefined_macros(compiler)
    is_fixed = needs_amx_fix(macros)
    binary = KEPT / build_key(pinned_requirement(), macros, with_amx_fix=is_fixed) / "llama-server"
    if not binary.exists():
        build(binary, f'-include "{AMX_FIX}"' if is_fixed else "")
    return binary


def build(goal: Path, flags: str) -> None:
    print(f"building llama-server, once: minutes; it is kept in {goal.parent}", flush=True)
    goal.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llama-server-") as aside:
        sources = unpack_sources(Path(aside)) / "vendor/llama.cpp"
        tree, log = Path(aside, "tree"), goal.parent / "build.log"
        defined = [f"-D{name}={value}" for name, value in CMAKE_SETTINGS.items()]
        jobs = str(os.cpu_count() or 1)
        for step in (
            ["cmake", "-S", str(sources), "-B", str(tree), *defined],
            ["cmake", "--build", str(tree), "--target", "llama-server", "-j", jobs],
        ):
            with log.open("ab") as said:
                done = subprocess.run(
                    step, env=build_environment(flags), stdout=said, stderr=said, check=False
                )
            if done.returncode:
                message = f"llama-server could not be built; all of it is in {log}"
                raise ChildProcessError(message)
        shutil.copy2(tree / "bin/llama-server", goal.with_suffix(".new"))
    goal.with_suffix(".new").replace(goal)


def unpack_sources(folder: Path) -> Path:
    """Fetch the source package that `requirements.lock` names, with its hash checked, and unpack it."""
    pinned = folder / "requirements.txt"
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.search(r"^llama-cpp-python==\S+( \\\n +--hash=\S+)+", lock, re.MULTILINE)
    if locked is None:
        message = "requirements.lock does not name llama-cpp-python"
        raise LookupError(message)
    pinned.write_text(locked[0] + "\n")
    options = ["--no-deps", "--no-binary=:all:", "--require-hashes", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pinned), "-d", str(folder)]
    subprocess.run(command, check=True)
    archive = next(folder.glob("*.tar.gz"))
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")
