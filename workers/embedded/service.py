"""What the embedded servers have in common: their place on disk, and how they start and stop."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from platform import machine, system
from typing import IO, ClassVar

from workers.errors import EmbeddedServiceError

MAX_SOCKET_BYTES = 103
"""macOS gives a socket's path 104 bytes with its closing zero, Linux 108."""

START_LIMIT_S = 60.0
"""A cold start takes 0.5 s; reading a large log back after a crash takes longer."""

STOP_LIMIT_S = 30.0
PING_LIMIT_S = 2.0
POLL_S = 0.02
TAIL_LINES = 12

SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that a server sees of ours: it needs no key, and on macOS Postgres needs a set locale."""


@dataclass(frozen=True)
class Server:
    """An embedded server that answers."""

    name: str
    """`redis` or `postgres`."""
    url: str
    pid: int
    log: Path
    was_running: bool
    """True: somebody else started it, so it is not ours to stop."""


@dataclass(frozen=True)
class Service(ABC):
    """One embedded server: its place on disk and how it is started, found and stopped."""

    home: Path
    sockets: Path
    durable: bool = True

    name: ClassVar[str]
    url_setting: ClassVar[str]
    """The variable that names another server instead of the embedded one."""
    stop_signal: ClassVar[signal.Signals]

    @property
    def data(self) -> Path:
        return self.home / self.name

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        return self.home / f"{self.name}.lock"

    @property
    def uid(self) -> int:
        """Who the server runs as, and so who has to own its data."""
        return os.geteuid()

    @property
    def run_as(self) -> int | None:
        """The user, and the group, to change to; None: the server runs as we do."""
        return self.uid if self.uid != os.geteuid() else None

    @property
    @abstractmethod
    def socket(self) -> Path: ...

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Get the data ready, if there is none yet, and name the program to run."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask the server whether it takes work."""

    @abstractmethod
    def answering_pid(self) -> int | None:
        """Ask for the pid of what answers on the socket, ready or not."""

    def start(self) -> Server:
        self.check_socket()
        self.make_folders()
        with self.open(self.lock) as lock, self.open(self.log) as log:
            was_running = not self.take(lock)
            if not was_running:
                self.check_data()
                command = self.command()
                self.clear_leftovers()
                self.launch(command, lock, log)
        self.complete()
        pid = self.answering_pid()
        if pid is None:
            raise self.refusal("ended right after its start", f"read {self.log}{self.tail()}")
        return Server(self.name, self.url, pid, self.log, was_running)

    def find(self) -> Server | None:
        """Look for a server that is ready."""
        pid = self.answering_pid() if self.is_locked() and self.is_ready() else None
        return Server(self.name, self.url, pid, self.log, was_running=True) if pid else None

    def stop(self) -> bool:
        """Ask the server to end, once, and wait until the last of its processes is gone."""
        if not self.is_locked():
            return False
        deadline = time.monotonic() + STOP_LIMIT_S
        asked = None
        while self.is_locked():
            # A pid is only signalled while the lock is held and the server itself answers to it.
            if asked is None and (asked := self.answering_pid()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(asked, self.stop_signal)
            if time.monotonic() > deadline:
                who = f"pid {asked}" if asked else f"which does not answer, but holds {self.lock}"
                raise self.refusal(
                    f"({who}) did not stop in {STOP_LIMIT_S:.0f} s",
                    f"read {self.log}, then end the process by hand",
                )
            time.sleep(POLL_S)
        return True

    def complete(self) -> None:
        """Add what the running server needs before anybody else uses it."""
        return

    def check_socket(self) -> None:
        if len(os.fsencode(self.socket)) > MAX_SOCKET_BYTES:
            raise self.refusal(
                f"would have its socket at {self.socket}, longer than the {MAX_SOCKET_BYTES} bytes "
                "that a socket's path may have",
                "choose a shorter folder for the sockets",
            )

    def make_folders(self) -> None:
        """Make the home and the socket folders, private to whoever has to reach them."""
        is_root = os.geteuid() == 0
        passable = 0o711 if is_root else 0o700
        with suppress(FileExistsError), self.sentence_for(self.home):
            self.home.mkdir(parents=True)
            self.home.chmod(passable)
        self.make_socket_folder(self.sockets, passable, os.geteuid())
        self.make_socket_folder(self.socket.parent, 0o700, self.uid)

    def make_socket_folder(self, folder: Path, mode: int, owner: int) -> None:
        with suppress(FileExistsError), self.sentence_for(folder):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        # In /tmp anybody can make the folder first, and would then be the one who is connected to.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), owner}:
            raise self.refusal(
                f"would have its socket in {folder}, which is not a folder of your own "
                f"(it belongs to uid {found.st_uid})",
                "remove it, or set FLEET_HOME to another folder: the socket folder changes with it",
            )
        folder.chmod(mode)
        if found.st_uid != owner:
            os.chown(folder, owner, owner)

    def take(self, lock: IO[bytes]) -> bool:
        """Take the lock, or wait until the server that holds it is ready.

        Returns:
            False: it is ready. What holds the lock may also be another start, or what a killed
            server left to finish; then the lock comes free or a server comes up.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not locked_now(lock):
            if self.is_ready():
                return False
            if time.monotonic() > deadline:
                raise self.refusal(
                    f"seems to run, because {self.lock} is held, but does not answer on {self.socket}",
                    f"`fuser {self.lock}` names the process: end it, then start again",
                )
            time.sleep(POLL_S)
        return True

    def is_locked(self) -> bool:
        try:
            with self.lock.open("rb") as lock:
                return not locked_now(lock)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise self.not_ours(self.lock) from error

    def check_data(self) -> None:
        if self.data.exists() and (owner := self.data.stat().st_uid) != self.uid:
            raise self.refusal(
                f"would run as uid {self.uid}, but {self.data} belongs to uid {owner}",
                "start the fleet as the user who made it, or set FLEET_HOME to another folder",
            )

    def clear_leftovers(self) -> None:
        """Remove what a killed server left behind; the lock says that it is gone."""
        if (pid := self.answering_pid()) is not None:
            raise self.refusal(
                f"finds its socket {self.socket} in use by pid {pid}, which does not hold {self.lock}",
                "end that process; if the home is on a network file system, set FLEET_HOME to a local one",
            )

    def launch(self, command: list[str | Path], lock: IO[bytes], log: IO[bytes]) -> None:
        """Start the server with the lock in its hands and wait until it is ready."""
        began_at = log.seek(0, os.SEEK_END)
        try:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in this terminal is not for the server
                user=self.run_as,
                group=self.run_as,
                extra_groups=None if self.run_as is None else [],
            )
        except OSError as error:
            raise self.refusal(f"cannot be run: {error}", self.elsewhere) from error
        # Whoever starts a server and lives on must not keep it as a zombie.
        threading.Thread(target=process.wait, name=f"wait-{self.name}", daemon=True).start()
        try:
            self.wait_until_ready(process, began_at)
        except KeyboardInterrupt:
            process.send_signal(self.stop_signal)
            raise

    def wait_until_ready(self, process: subprocess.Popen[bytes], log_from: int) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self.is_ready():
            if process.poll() is not None:
                raise self.refusal(
                    f"ended at its start with status {process.returncode}",
                    f"read {self.log}{self.tail(log_from)}",
                )
            if time.monotonic() > deadline:
                raise self.refusal(
                    f"(pid {process.pid}) is not ready after {START_LIMIT_S:.0f} s, and goes on starting",
                    f"wait, then start again; or read {self.log}{self.tail(log_from)}",
                )
            time.sleep(POLL_S)

    def tail(self, log_from: int = 0) -> str:
        """Quote the end of the log, as the continuation of a sentence."""
        lines = self.log.read_bytes()[log_from:].decode(errors="replace").splitlines()[-TAIL_LINES:]
        return ", which ends:" + "".join(f"\n  {line}" for line in lines) if lines else ""

    @contextmanager
    def open(self, path: Path) -> Generator[IO[bytes]]:
        """Open a file of the home for appending; nobody else may read it."""
        with self.sentence_for(path):
            file = os.fdopen(os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o600), "ab")
        with file:
            yield file

    @contextmanager
    def sentence_for(self, path: Path) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
                raise
            raise self.not_ours(path) from error

    def not_ours(self, path: Path) -> EmbeddedServiceError:
        return self.refusal(
            f"needs {path}, which uid {os.geteuid()} may not write",
            "set FLEET_HOME to a folder of your own",
        )

    def missing(self, package: str) -> EmbeddedServiceError:
        return self.refusal(
            f"is not installed (no {package} for {system()} on {machine()})",
            f"run `pip install 'aria-fleet[host]'`, or {self.elsewhere}",
        )

    @property
    def elsewhere(self) -> str:
        return f"set {self.url_setting} to a server that you run"

    def refusal(self, why: str, what_to_do: str) -> EmbeddedServiceError:
        return EmbeddedServiceError(self.name, why, what_to_do)


def package_folder(package: str) -> Path | None:
    """Find an installed package without importing it."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def locked_now(file: IO[bytes]) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
