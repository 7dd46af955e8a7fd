"""What the fleet refuses, and what has gone wrong in it.

FleetError
├── InvalidCallError         a task was called with an argument that is not what it should be
├── PayloadTooLargeError     its arguments are larger than the fleet carries
├── RedisUnreachableError    there is no Redis to enqueue a task in
├── UnreadableMessageError   a message on the queue `dispatch` is none of ours
├── EmbeddedServiceError     the embedded Redis or Postgres cannot be started or stopped
├── ModelFileError           a local model's file is not here and cannot be fetched
├── UnknownTaskError         no task, or more than one, has that id
├── TextRemovedError         a result is asked for whose text is no longer kept
├── TraceError               a workload trace cannot be read
├── NothingToReplayError     no recorded task is of the time that was named
├── FleetIsUpError           somebody keeps the fleet of this home up already
├── WorkersDiedError         a task was lost with its worker, again and again
├── WorkerStoppedError       a worker was stopped before it could answer
├── StreamRestartedError     text of an answer was given out, and another attempt is made
├── ScheduleError            a recurring task would run in vain
├── ImportFileError          a file of cron jobs cannot be read
├── BackupError              the ledger cannot be backed up or restored
└── NotThereError            a server, a port or a program that is needed cannot be used
"""

from collections.abc import Sequence
from pathlib import Path


class FleetError(Exception):
    """The fleet cannot do what it was asked."""


class InvalidCallError(FleetError, ValueError):
    """A task was called with an argument that is not what it should be."""

    def __init__(self, argument: str, expected: str, task: str = "complete") -> None:
        super().__init__(argument, expected, task)
        self.argument = argument
        self.expected = expected
        self.task = task

    def __str__(self) -> str:
        return f"{self.task}: {self.argument} must be {self.expected}"


class PayloadTooLargeError(FleetError, ValueError):
    """The arguments of a call are larger than the fleet carries."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"the arguments of the call take {self.size_bytes:,} bytes, the limit is {self.limit_bytes:,}; "
            "send less text at once or raise FLEET_MAX_PAYLOAD_BYTES for callers and dispatchers"
        )


class RedisUnreachableError(FleetError, ConnectionError):
    """There is no Redis to enqueue a task in."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return (
            f"Redis does not answer at {self.url}, so the task was not enqueued; start the fleet "
            "(`fleet up`), or set FLEET_REDIS_URL or FLEET_HOME to where it runs"
        )


class UnreadableMessageError(FleetError):
    """A message on the queue `dispatch` is none of ours."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the message cannot be read: {self.why}; it was moved to the list dispatch.dead"


class EmbeddedServiceError(FleetError):
    """The embedded Redis or Postgres cannot be started or stopped."""

    def __init__(self, name: str, why: str, what_to_do: str) -> None:
        super().__init__(name, why, what_to_do)
        self.name = name
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"the embedded {self.name} {self.why}; {self.what_to_do}"


class TextRemovedError(FleetError):
    """A result is in Redis no more, and its text was removed from the ledger or never came there."""

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(task_id, state)
        self.task_id = task_id
        self.state = state

    def __str__(self) -> str:
        return (
            f"the task {self.task_id} {self.state}, and its text is no longer kept; ask for results sooner, "
            "or set keep_text in profiles.yaml or FLEET_KEEP_TEXT"
        )


class FleetIsUpError(FleetError):
    """Somebody keeps the fleet of this home up already."""

    def __init__(self, pid: int, home: str) -> None:
        super().__init__(pid, home)
        self.pid = pid
        self.home = home

    def __str__(self) -> str:
        return (
            f"the fleet of {self.home} is up already (pid {self.pid}); `fleet status` shows it, `fleet down` "
            "ends it, and another FLEET_HOME makes another fleet"
        )


class WorkersDiedError(FleetError):
    """A task was lost with its worker, again and again, and is not tried once more."""

    def __init__(self, deaths: Sequence[Sequence[str]]) -> None:
        super().__init__(deaths)
        self.deaths = deaths

    def __str__(self) -> str:
        seen = ", ".join(f"{worker} (silent since its lease ended {at})" for worker, at in self.deaths)
        return (
            f"{len(self.deaths)} workers died or fell silent while they ran this task: {seen}; it is not "
            "tried again: look into their logs and at the memory of their hosts, then enqueue it again"
        )


class WorkerStoppedError(FleetError):
    """A worker was stopped before it could answer; the task goes on elsewhere."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        return f"{self.worker} was stopped before it could answer; the task goes on elsewhere"


class StreamRestartedError(FleetError):
    """Text of an answer was given out as it came, and is void: another attempt is made."""

    def __init__(self, task_id: str, attempt: int) -> None:
        super().__init__(task_id, attempt)
        self.task_id = task_id
        self.attempt = attempt

    def __str__(self) -> str:
        return (
            f"the text of the task {self.task_id} so far is void, its attempt {self.attempt} begins from the "
            "start; drop the text and call stream again"
        )


class NotThereError(FleetError):
    """A server, a port or a program that is needed cannot be used."""

    def __init__(self, what: str, what_to_do: str) -> None:
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"{self.what}; {self.what_to_do}"


class BackupError(FleetError):
    """The ledger cannot be backed up or restored."""

    def __init__(self, what: str, what_to_do: str) -> None:
        super().__init__(what, what_to_do)
        self.what = what
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"{self.what}; {self.what_to_do}"


class ModelFileError(FleetError):
    """A local model's file is not here and cannot be fetched."""

    def __init__(self, model: str, why: str, what_to_do: str) -> None:
        super().__init__(model, why, what_to_do)
        self.model = model
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"{self.model} cannot be fetched: {self.why}; {self.what_to_do}"


class UnknownTaskError(FleetError):
    """No task, or more than one, is meant by what was given as an id."""

    def __init__(self, asked: str, why: str, what_to_do: str) -> None:
        super().__init__(asked, why, what_to_do)
        self.asked = asked
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"{self.asked!r} {self.why}; {self.what_to_do}"


class TraceError(FleetError):
    """A workload trace cannot be read."""

    def __init__(self, path: Path | str, line: int, column: str, expected: str, found: str) -> None:
        """Describe the fault.

        Args:
            path: of the file.
            line: from 1; 0: the whole file.
            column: empty: the whole line.
            expected: what should be there.
            found: what is there.
        """
        super().__init__(str(path), line, column, expected, found)
        self.path = str(path)
        self.line = line
        self.column = column
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        column = f"column {self.column}: " if self.column else ""
        return f"{where}: {column}expected {self.expected}, got {self.found:.200}"


class NothingToReplayError(FleetError):
    """No recorded task is of the time that was named."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"{self.why}; name a longer time with --since, or a workload with --trace FILE.csv"


class ScheduleError(FleetError):
    """A recurring task would run in vain."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"{self.name} was not run, and nothing was spent: {self.why}; see its entry in schedule.yaml"


class ImportFileError(FleetError):
    """A file of cron jobs cannot be read."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(file, why)
        self.file = file
        self.why = why

    def __str__(self) -> str:
        return (
            f"{self.file} cannot be imported: {self.why}; it is a YAML list `jobs`, see the docs on schedules"
        )
