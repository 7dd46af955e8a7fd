"""`make chaos ARGS="--seed 7 --minutes 3"`: a fleet under fire, and whether it kept its word."""

import secrets
import shutil
import tempfile
from pathlib import Path

import click

from tests.chaos.disk import a_disk
from tests.chaos.faults import KINDS
from tests.chaos.run import run


@click.command()
@click.option("--seed", type=int, help="The run to repeat; without it, another one each time.")
@click.option("--minutes", default=3.0, show_default=True, help="How long things go wrong.")
@click.option("--tasks", default=6000, show_default=True, help="How many are enqueued meanwhile.")
@click.option("--every", default=4.0, show_default=True, help="Seconds between two faults, on average.")
@click.option("--keep", is_flag=True, help="Keep the logs of a run that went well, too.")
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="Only this kind of fault.")
def main(
    *, seed: int | None, minutes: float, tasks: int, every: float, keep: bool, only: tuple[str, ...]
) -> None:
    """Let everything go wrong, and look whether a task was lost, run twice or charged too little."""
    chosen = secrets.randbelow(10_000) if seed is None else seed
    home = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    home.chmod(0o755)  # Postgres runs as nobody where root runs this
    try:
        (home / "data").mkdir()
        with a_disk(home / "data") as disk:
            kinds = list(only or KINDS)
            if disk is None and "full_disk" in kinds:
                kinds.remove("full_disk")
                click.echo("left out: full_disk, which needs root on Linux to mount a small file system")
            findings = run(
                home,
                chosen,
                seconds=minutes * 60,
                tasks=tasks,
                kinds=kinds,
                every_s=every,
                tell=click.echo,
                disk=disk,
                is_poisonous=True,
            )
            if not findings.is_clean:
                click.echo(f"\nBROKEN; the same faults again: --seed {chosen}")
            if keep or not findings.is_clean:
                click.echo(f"logs, journal and ledger are in {copy_of(home, chosen)}")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    raise SystemExit(0 if findings.is_clean else 1)


def copy_of(home: Path, seed: int) -> Path:
    """Copy what tells of a run aside."""
    kept = Path(tempfile.mkdtemp(prefix=f"fleet-chaos-{seed}-", dir="/tmp"))
    for name in ("fleet.log", "journal.jsonl", "ledger.txt", "data/redis.log", "data/postgres.log"):
        if (home / name).exists():
            shutil.copy(home / name, kept)
    return kept


if __name__ == "__main__":
    main()
