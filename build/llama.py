"""Install llama-cpp-python: compile llama.cpp for this machine's processor, once.

There is no wheel of it, because a good build depends on the processor: AVX-512 or AMX make it
several times faster. So it is compiled here, in minutes, and uv keeps the wheel in its cache for
every later environment of this user.

A wheel that was built for another processor, by another compiler or without `amx_fix.h` must not
come out of that cache. uv keys the cache by the build's settings, so all that a build depends on
goes into one of them, FLEET_BUILD_KEY, which llama.cpp ignores.

Run by `make env` with the environment's Python: `python build/llama.py UV LOCK`.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
AMX_FIX = ROOT / "build/amx_fix.h"
LOG = ROOT / ".cache/llama.log"

MARKER = Path(sys.prefix) / ".llama-build-key"
"""Says what the installed build was made for: an environment can outlive its machine."""

AMX_CORRECT_SINCE = {11: 5, 12: 4, 13: 3}
"""GCC's major version -> the first minor one with a correct _tile_loadconfig.

10 and older know no AMX, 14 and newer are correct.
"""

CMAKE_SETTINGS = {"LLAVA_BUILD": "OFF"}
"""Off: pictures and sound (mtmd). The fleet sends text, and they are a fifth of the work."""

BUILD_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_ARGS")
"""What CMake and scikit-build-core read, for whoever wants another build (a GPU, say)."""

CORE_MINUTES = 8
"""Measured on a 2026 cloud core, with GCC 12."""

QUIET_S = 3
"""Taking a wheel from the cache is done by then; what takes longer is a build and says so."""

NO_COMPILER = """\
llama.cpp is compiled for this machine and needs a C and a C++ compiler; found no C++ compiler.
Install one (Debian, Ubuntu: apt-get install build-essential; macOS: xcode-select --install),
then run make again. Or leave llama.cpp out: make EXTRAS=host ..."""


def main(uv: str, lock: str) -> int:
    compiler = find_compiler()
    if compiler is None:
        print(NO_COMPILER, file=sys.stderr)
        return 1
    macros = predefined_macros(compiler)
    flags = f'-include "{AMX_FIX}"' if needs_amx_fix(macros) else ""
    requirement = pinned_requirement()
    key = build_key(requirement, macros, with_amx_fix=bool(flags))
    if find_spec("llama_cpp"):
        if MARKER.exists() and MARKER.read_text() == key:
            return 0
        subprocess.run([uv, "pip", "uninstall", "--quiet", "llama-cpp-python"], check=True)

    settings = {**CMAKE_SETTINGS, "FLEET_BUILD_KEY": key}
    options = [
        # Without --no-deps uv asks the source for its metadata, and then builds it again
        # although a wheel is cached, where the index sends no cache headers.
        "--no-deps",
        "--verbose",
        *("--require-hashes", "--constraints", lock),
        *("--require-build-hashes", "--build-constraints", lock),
    ]
    for name, value in settings.items():
        options += ["--config-settings-package", f"llama-cpp-python:cmake.define.{name}={value}"]
    status = run([uv, "pip", "install", *options, requirement], build_environment(flags))
    if status == 0:
        MARKER.write_text(key)
    return status


def pinned_requirement() -> str:
    """Read `llama-cpp-python==...` from the `cpu` extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements: list[str] = project["optional-dependencies"]["cpu"]
    return next(one for one in requirements if one.startswith("llama-cpp-python=="))


def find_compiler() -> list[str] | None:
    """Find the C++ compiler that CMake will take: $CXX, else the first of the usual names."""
    named = os.environ.get("CXX")
    if named:
        return shlex.split(named)
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def predefined_macros(compiler: list[str]) -> dict[str, str]:
    """Ask the compiler what it defines when it compiles for this very processor.

    Returns:
        Name -> value: its version (`__GNUC__`, `__clang__` ...) and each instruction set that the
        processor has (`__AVX2__`, `__AMX_TILE__` ...).
    """
    for native in ("-march=native", "-mcpu=native"):
        answer = subprocess.run(
            [*compiler, native, "-x", "c++", "-dM", "-E", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode == 0:
            return dict(re.findall(r"^#define (\S+) ?(.*)$", answer.stdout, re.MULTILINE))
    return {}


def needs_amx_fix(macros: dict[str, str]) -> bool:
    """Say whether this compiler's _tile_loadconfig is broken (see amx_fix.h)."""
    if "__x86_64__" not in macros or "__clang__" in macros:
        return False
    major, minor = (int(macros.get(name, 0)) for name in ("__GNUC__", "__GNUC_MINOR__"))
    return minor < AMX_CORRECT_SINCE.get(major, 0)


def build_key(requirement: str, macros: dict[str, str], *, with_amx_fix: bool) -> str:
    """Sum up all that a build depends on: equal keys, interchangeable wheels."""
    parts = [requirement, repr(CMAKE_SETTINGS), repr(sorted(macros.items()))]
    parts += [f"{name}={os.environ.get(name, '')}" for name in BUILD_VARIABLES]
    if with_amx_fix:
        parts.append(AMX_FIX.read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build_environment(flags: str) -> dict[str, str]:
    """Add the compiler's flags, and one job for each core where make or ninja would not."""
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1), **os.environ}
    for name in ("CFLAGS", "CXXFLAGS"):
        environment[name] = f"{os.environ.get(name, '')} {flags}".strip()
    return environment


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the install, its output in LOG, and show how far it is."""
    LOG.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    with LOG.open("wb") as log:
        install = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    announced = False
    last_shown_s = 0.0
    interval_s = 1 if sys.stdout.isatty() else 30
    while install.poll() is None:
        time.sleep(0.1)
        elapsed_s = time.monotonic() - started
        if elapsed_s > QUIET_S and not announced:
            cores = os.cpu_count() or 1
            minutes = max(1, round(CORE_MINUTES / cores))
            print(
                f"building llama.cpp for this machine, once: about {minutes} min on {cores} cores", flush=True
            )
            announced = True
        if announced and elapsed_s - last_shown_s >= interval_s:
            show(elapsed_s)
            last_shown_s = elapsed_s
    if install.returncode:
        tail = LOG.read_text(errors="replace").splitlines()[-40:]
        print(*tail, f"llama.cpp could not be built; all of it is in {LOG}", sep="\n", file=sys.stderr)
    elif announced:
        show(time.monotonic() - started)
        print("\nllama.cpp is built" if sys.stdout.isatty() else "llama.cpp is built")
    return install.returncode


def show(elapsed_s: float) -> None:
    """Print the time and the latest count of ninja or make; a terminal keeps to one line."""
    counts = re.findall(r"\[\s*(\d+/\d+|\d+%)\]", LOG.read_text(errors="replace"))
    minutes, seconds = divmod(int(elapsed_s), 60)
    line = f"  {minutes}:{seconds:02d}  {counts[-1] if counts else 'fetching'}"
    if sys.stdout.isatty():
        print(f"\r{line:<40}", end="", flush=True)
    else:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
