"""`fleet demo`: a task of every profile through a whole fleet of its own, and what Postgres has of it."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from config.catalog import Catalog
from config.settings import Settings, settings, use_home
from ledger import leadership, usage
from ledger.connect import Connection, connect
from ledger.migrate import migrate
from ledger.usage import TaskAttempt
from workers.catalog import catalog
from workers.errors import NotThereError
from workers.home import services
from workers.lanes import ENGINE_OF, report
from workers.procfile import Command, is_worker, processes
from workers.pull import pull, starter_of
from workers.screen import print_rows as print_pairs

MAX_TOKENS = 48
"""Of each answer: enough to see what a model does, and soon over on a slow machine."""

WORKER_LIMIT_S = 120.0
ANSWERS_LIMIT_S = 300.0
RESULT_LIMIT_S = 10.0
STOP_LIMIT_S = 15.0
SILENCE_S = 10.0
POLL_S = 0.1
TAIL_LINES = 40

AGENT = "demo"
"""Who asks, in the books."""

Processes = Mapping[str, "subprocess.Popen[bytes]"]

Answer = dict[str, Any] | str
"""The chat.completion, or what went wrong."""


def demo(console: Console) -> bool:
    """Show the fleet at work, then stop and remove all that was started, also after Ctrl-C.

    Returns:
        Whether every task succeeded.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt_once)
    with private_home() as home:
        log = home / "demo.log"
        try:
            rows = run(console, settings(), catalog(), log)
        except NotThereError as error:
            console.print(f"{error}", style="red", highlight=False)
            print_tail(console, log)
            return False
        all_succeeded = all(row.state == "succeeded" for row in rows)
        if not all_succeeded:
            print_tail(console, log)
    console.print("Everything that was started is stopped, and its home is removed.\n")
    return all_succeeded


def interrupt_once(*_: int | FrameType | None) -> None:
    """Begin the end as Ctrl-C does; a second Ctrl-C must not break off the cleaning."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def private_home() -> Generator[Path]:
    """Give this process and its children a home that is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="fleet-demo-"))
    home.chmod(0o755)  # as root, Postgres runs as nobody, who has to pass
    use_home(home)
    try:
        yield home
    finally:
        shutil.rmtree(settings().sockets, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def run(console: Console, settings: Settings, catalog: Catalog, log: Path) -> list[TaskAttempt]:
    """Run the fleet, and a task of every profile through it.

    Returns:
        The rows that the ledger has of the tasks.

    Raises:
        NotThereError: the fleet does not come up, or does not answer in time.
    """
    starter = starter_of(catalog)
    if starter:
        pull(starter, console)
    console.print("Redis and Postgres start, in a home of their own.")
    with services(settings, Console(quiet=True)):
        migrate(settings.database_url)
        with connect(settings.database_url, name="demo") as db, fleet(commands(catalog), log) as running:
            wait_for_worker(console, db, running)
            ids = enqueue(catalog)
            rows = wait_for_answers(console, db, ids, running)
            answers = {profile: answer_to(task_id) for profile, task_id in ids.items()}
    print_answers(console, answers)
    say_who_answered(console, catalog, answers)
    print_rows(console, rows)
    return rows


def commands(catalog: Catalog) -> dict[str, Command]:
    """Choose the processes: a dispatcher, and a worker that serves the starter and nothing else."""
    starter = starter_of(catalog)
    lanes = [lane for lane in ENGINE_OF if report(lane, catalog).models]
    only = ("--model", starter.name) if starter else ()
    return {
        name: (*command, *only) if is_worker(name) else command
        for name, command in processes(lanes).items()
        if is_worker(name) or name == "dispatcher"
    }


@contextmanager
def fleet(commands: Mapping[str, Command], log: Path) -> Generator[Processes]:
    """Run processes with their logs in a file; stop the workers first."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    with log.open("ab") as writing:
        try:
            for name, command in commands.items():
                running[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, start_new_session=True
                )
            yield running
        finally:
            for name in sorted(running, key=is_worker, reverse=True):
                running[name].terminate()
                try:
                    running[name].wait(STOP_LIMIT_S)
                except subprocess.TimeoutExpired:
                    running[name].kill()
                    running[name].wait()


def wait_for_worker(console: Console, db: Connection, running: Processes) -> None:
    """Wait until somebody leads and somebody works.

    Raises:
        NotThereError: a process ended, or it takes too long.
    """
    console.print(f"{' and '.join(running)} start.", highlight=False)
    deadline = time.monotonic() + WORKER_LIMIT_S
    with console.status("waiting for a leader and a worker"):
        while not (leadership.current(db).is_alive and usage.workers(db, SILENCE_S)):
            check(running, deadline, "no dispatcher leads, or no worker is there")
            time.sleep(POLL_S)


def check(running: Processes, deadline: float, what: str) -> None:
    ended = {name: process.returncode for name, process in running.items() if process.poll() is not None}
    if ended:
        text = ", ".join(f"{name} ended with status {status}" for name, status in ended.items())
        raise NotThereError(text, "its log says why")
    if time.monotonic() > deadline:
        raise NotThereError(what, "the logs may say why")


def enqueue(catalog: Catalog) -> dict[str, UUID]:
    """Enqueue the default prompt of every profile, as an agent would.

    Returns:
        The tasks' ids by profile. Celery's results are not kept: one that is thrown away after its Redis
        has gone waits for it to come back.
    """
    from workers.tasks import complete  # noqa: PLC0415 - it reads the settings, which must be the demo's own

    return {
        name: UUID(complete.delay(profile=name, max_tokens=MAX_TOKENS, agent=AGENT).id)
        for name in catalog.profiles
    }


def wait_for_answers(
    console: Console, db: Connection, ids: Mapping[str, UUID], running: Processes
) -> list[TaskAttempt]:
    """Wait for every task to end, and say each time that one has.

    Raises:
        NotThereError: a process ended, or it takes too long.
    """
    deadline = time.monotonic() + ANSWERS_LIMIT_S
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("a task for each profile", total=len(ids))
        waiting = dict(ids)
        while True:
            rows = usage.attempts_of(db, list(ids.values()))
            for row in rows:
                if row.task_finished_at and row.profile in waiting:
                    del waiting[row.profile]
                    progress.advance(bar)
                    line = f"  {len(ids) - len(waiting)} of {len(ids)}: {row.profile} {row.state}"
                    progress.console.print(line, highlight=False)
            if not waiting:
                return rows
            check(running, deadline, f"no answer to {', '.join(waiting)} in {ANSWERS_LIMIT_S:.0f} s")
            time.sleep(POLL_S)


def answer_to(task_id: UUID) -> Answer:
    """Get what the caller of a task gets."""
    from workers.tasks import complete  # noqa: PLC0415 - as above

    try:
        return complete.AsyncResult(str(task_id)).get(timeout=RESULT_LIMIT_S)
    except Exception as error:  # noqa: BLE001 - whatever the task raised is what is shown
        return f"{type(error).__name__}: {error}"


def print_answers(console: Console, answers: Mapping[str, Answer]) -> None:
    rows: list[list[str]] = []
    for profile, answer in answers.items():
        if isinstance(answer, str):
            rows.append([profile, *[""] * 7, answer])
            continue
        ran, used = answer["fleet"], answer["usage"]
        rows.append(
            [
                profile,
                ran["model"],
                ran["tier"],
                str(used["prompt_tokens"]),
                str(used["completion_tokens"]),
                dollars(ran["cost_usd"]),
                f"{ran['waited_s']:.1f} s",
                f"{ran['ran_s']:.1f} s",
                " ".join(answer["choices"][0]["message"]["content"].split()),
            ]
        )
    columns = ("profile", "model", "tier", ">in", ">out", ">cost", ">waited", ">ran", "answer")
    print_table(console, "What the callers get", columns, rows)


def say_who_answered(console: Console, catalog: Catalog, answers: Mapping[str, Answer]) -> None:
    """Name the models that were wanted but are not here: a last resort must not pass for them."""
    ran = {
        profile: answer["fleet"]["model"]
        for profile, answer in answers.items()
        if not isinstance(answer, str)
    }
    wanted = dict.fromkeys(
        catalog.profile(name).model for name in ran if ran[name] != catalog.profile(name).model
    )
    if wanted:
        stood_in = dict.fromkeys(ran[name] for name in ran if ran[name] != catalog.profile(name).model)
        console.print(
            f"\nThe profiles ask for {', '.join(wanted)}, and the demo reaches none of these. So "
            f"{', '.join(stood_in)} stood in, the last resort of the catalog, small enough for any machine: "
            "these answers show that the fleet works, not what a model can do.",
            highlight=False,
        )


def print_rows(console: Console, rows: Sequence[TaskAttempt]) -> None:
    """Print tasks joined with attempts, and why the models before the one that ran were not taken."""
    print_table(
        console,
        "What Postgres has of it",
        ("task", "profile", "state", "model", "queue", "outcome", ">tokens", ">cost", "passed over"),
        [
            [
                str(row.task_id)[-8:],
                row.profile or "",
                row.state,
                row.model or "",
                row.queue or "",
                row.outcome or "",
                f"{row.prompt_tokens or 0}+{row.completion_tokens or 0}",
                dollars(row.cost_usd),
                f"{len(row.passed_over or ())} models",
            ]
            for row in rows
        ],
    )
    reasons: dict[str, dict[str, None]] = {}
    for model, why in (each for row in rows for each in row.passed_over or ()):
        reasons.setdefault(why, {})[model] = None
    if reasons:
        console.print("\n[bold]Why they were passed over[/]")
        print_pairs(console, [(", ".join(models), why) for why, models in reasons.items()])
    console.print()


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns that begin with > hold numbers, the last one is cut to what fits."""
    widths = [
        max(len(row[at]) for row in (*rows, [name.lstrip(">") for name in columns]))
        for at in range(len(columns))
    ]
    widths[-1] = max(min(widths[-1], console.width - sum(widths[:-1]) - len(columns) + 1), len(columns[-1]))
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0), pad_edge=False)
    for name, width in zip(columns, widths, strict=True):
        is_number = name.startswith(">")
        table.add_column(
            name.lstrip(">"), justify="right" if is_number else "left", no_wrap=True, min_width=width
        )
    for row in rows:
        *cells, last = row
        table.add_row(*(Text(cell) for cell in cells), cut(last, widths[-1]))
    console.print(f"\n[bold]{title}[/]")
    console.print(table, soft_wrap=True)


def cut(text: str, width: int) -> Text:
    cell = Text(text)
    cell.truncate(width, overflow="ellipsis")
    return cell


def dollars(cost_usd: object) -> str:
    """Write a cost as it is in the books; unknown is not free."""
    return "unknown" if cost_usd is None else f"${Decimal(str(cost_usd)).normalize():f}"


def print_tail(console: Console, log: Path) -> None:
    """Print the end of the logs, which are gone with the home."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    console.print(f"\nThe last lines of the logs of dispatcher and worker ({len(lines)} in all):")
    for line in lines[-TAIL_LINES:]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
