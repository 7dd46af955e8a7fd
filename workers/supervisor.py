"""Keeps the processes of a host running, with their logs in one stream, until it is asked to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from threading import Event, Lock, Thread
from types import FrameType

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from config.settings import environment_with
from workers.procfile import Command, is_worker

FIRST_PAUSE_S = 1.0
"""How long a process that ended is left alone; twice as long each time that it ends again soon."""

LONGEST_PAUSE_S = 30.0

STEADY_S = 60.0
"""A process that ran for so long is forgiven its earlier ends."""

STOP_LIMIT_S = 60.0
"""How long workers may take to finish the attempts that they run."""

TEND_S = 2.0
"""How often the embedded services are looked at."""

POLL_S = 0.05

OWN_NAME = "fleet"
"""The name before the supervisor's own lines."""


class Supervisor:
    """The processes of a host: one that ends is started again, after a pause that grows."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        on_change: Callable[[Mapping[str, int]], None],
        tend: Callable[[], Sequence[str]],
        keys: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Prepare to run commands.

        Args:
            commands: by name, which goes before each line of their logs.
            on_change: told the pids of what runs, by name, whenever that changes.
            tend: called every few seconds, to look after what is not a command; what it says is shown.
            keys: what each has in its environment besides what is in this process's, by name.
        """
        self.commands = commands
        self.on_change = on_change
        self.tend = tend
        self.keys = keys or {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.changing = Lock()
        self.stopping = Event()
        self.asked = 0
        """How often it was asked to stop; the second time it stops at once."""
        self.printer = Printer(sys.stdout, time_format="", width=max(map(len, (OWN_NAME, *commands))))
        self.colours = dict(zip((OWN_NAME, *commands), get_colours(), strict=False))

    def run(self) -> None:
        """Run all of it until SIGINT, SIGTERM or SIGHUP, then stop all of it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.ask_to_stop)
        keepers = [Thread(target=self.tend_services, name="keep-services")]
        keepers += [Thread(target=self.keep, args=(name,), name=f"keep-{name}") for name in self.commands]
        for keeper in keepers:
            keeper.start()
        while not self.asked:
            time.sleep(POLL_S)
        self.stopping.set()
        self.stop()
        for keeper in keepers:
            keeper.join()

    def ask_to_stop(self, *_: int | FrameType | None) -> None:
        """Count; a signal handler must not wait for a lock, which an Event has."""
        self.asked += 1

    def keep(self, name: str) -> None:
        """Run a process, again and again."""
        pause_s = FIRST_PAUSE_S
        while not self.stopping.is_set():
            began = time.monotonic()
            status = self.run_once(name)
            if status is None or self.stopping.is_set():
                return
            if time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            self.say(f"{name} ended with status {status}; it starts again in {pause_s:g} s")
            self.stopping.wait(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def tend_services(self) -> None:
        """See now and then whether the embedded services are there."""
        while not self.stopping.wait(TEND_S):
            for sentence in self.tend():
                self.say(sentence)

    def run_once(self, name: str) -> int | None:
        """Run a process to its end.

        Returns:
            Its status; None: it was not started, because all is being stopped.
        """
        with self.changing:
            if self.stopping.is_set():
                return None
            process = subprocess.Popen(
                self.commands[name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment_with(self.keys.get(name, {})),
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
            )
            self.running[name] = process
            self.tell()
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    self.write(name, line)
        status = process.wait()
        with self.changing:
            del self.running[name]
            self.tell()
        return status

    def tell(self) -> None:
        self.on_change({name: process.pid for name, process in self.running.items()})

    def stop(self) -> None:
        """Stop the workers first, then who gives them work."""
        workers = [name for name in self.commands if is_worker(name)]
        others = [name for name in self.commands if name not in workers]
        self.say("stopping: workers finish what they run; Ctrl-C again breaks it off")
        self.end(workers)
        self.end(others)

    def end(self, names: Iterable[str]) -> None:
        with self.changing:
            ending = {name: process for name, process in self.running.items() if name in names}
        for process in ending.values():
            process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        while any(process.poll() is None for process in ending.values()):
            if self.asked > 1 or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        for name, process in ending.items():
            if process.poll() is None:
                self.say(f"{name} has not finished and is killed")
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def say(self, text: str) -> None:
        self.write(OWN_NAME, text)

    def write(self, name: str, line: bytes | str) -> None:
        with suppress(OSError):  # the terminal was closed; the processes must not wait for it
            self.printer.write(Message("line", line, datetime.now().astimezone(), name, self.colours[name]))
