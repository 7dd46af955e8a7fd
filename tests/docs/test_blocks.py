"""What the pages show is run: Python, shell and SQL on a fleet, YAML through the catalog's own checks."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG, Settings
from tests.docs.pages import PAGES, Block, blocks, name_of

LIMIT_S = 60

RUN = ("python", "sh", "sql", "yaml")
SHOWN = ("text", "json", "mermaid")
"""Output and pictures."""

MOST_NOT_RUN = 15
"""Blocks that a reader has to believe."""

BLOCKS = [block for page in PAGES for block in blocks(page)]

FILE_OF = {
    "providers": "models.yaml",
    "models": "models.yaml",
    "profiles": "profiles.yaml",
    "focuses": "profiles.yaml",
    "budgets": "profiles.yaml",
    "schedule": "schedule.yaml",
}


def run_in(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.why_not_run is None]


def place(block: Block) -> str:
    return block.place


@pytest.fixture(scope="session")
def shell(environment: dict[str, str], fleet: Settings, short_folder: Any) -> dict[str, str]:
    """Put `fleet` and `python` of this environment first on the PATH."""
    folder: Path = short_folder()
    for name, arguments in (("python", '"$@"'), ("fleet", '-m workers.cli "$@"')):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}\n')
        script.chmod(0o755)
    return {
        **environment,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "FLEET_REDIS_URL": fleet.redis_url,
        "FLEET_DATABASE_URL": fleet.database_url,
        "BROKER_URL": fleet.broker_url,
    }


def succeeds(command: list[str], environment: Mapping[str, str]) -> None:
    ran = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr


def session_of(page: Path) -> str:
    """Put a page's Python blocks into one program, as a reader types them; its lines are the page's."""
    lines = [""] * len(page.read_text(encoding="utf-8").splitlines())
    for block in run_in("python"):
        if block.page == page:
            added = block.text.splitlines()
            lines[block.line : block.line + len(added)] = added
    return "\n".join(lines)


@pytest.mark.parametrize("page", sorted({block.page for block in run_in("python")}), ids=name_of)
def test_the_python_of_a_page_runs(page: Path, shell: dict[str, str], tmp_path: Path):
    """A newcomer types what is on the page, from top to bottom."""
    program = tmp_path / page.with_suffix(".py").name
    program.write_text(session_of(page), encoding="utf-8")

    succeeds([sys.executable, str(program)], shell)


@pytest.mark.parametrize("block", run_in("sh"), ids=place)
def test_a_shell_block_runs(block: Block, shell: dict[str, str]):
    """A command that was renamed lives on in the docs."""
    succeeds(["bash", "-euo", "pipefail", "-c", block.text], shell)


@pytest.fixture(scope="session")
def used_ledger(shell: dict[str, str], fleet: Settings) -> Settings:
    """Let one task succeed and one fail, so that every question has an answer."""
    succeeds(["fleet", "complete", "Hello", "--profile", "social", "--agent", "docs"], shell)
    sound = '[{"role": "user", "content": [{"type": "input_audio"}]}]'
    code = f"from workers import complete; complete.delay(messages={sound}).get(timeout=30, propagate=False)"
    succeeds([sys.executable, "-c", code], shell)
    return fleet


@pytest.mark.parametrize("block", run_in("sql"), ids=place)
def test_an_sql_block_reads_rows_and_writes_none(block: Block, used_ledger: Settings):
    """A query with last month's columns fails in the hands of somebody who wants to know what was spent."""
    with psycopg.connect(used_ledger.database_url) as db:
        db.read_only = True
        rows = db.execute(block.text.encode()).fetchall()

    assert rows


@pytest.mark.parametrize("block", run_in("yaml"), ids=place)
def test_a_yaml_block_fits_into_the_shipped_catalog(block: Block, tmp_path: Path):
    """What is shown as an entry has to pass as one."""
    shown = yaml.safe_load(block.text)
    for name in sorted({*FILE_OF.values()}):
        data = yaml.safe_load((SHIPPED_CONFIG / name).read_text(encoding="utf-8"))
        for section, entries in shown.items():
            if FILE_OF[section] == name:
                data[section] = {**data[section], **entries}
        (tmp_path / name).write_text(yaml.safe_dump(data), encoding="utf-8")

    catalog = load_catalog(tmp_path)

    named = {*catalog.providers, *catalog.models, *catalog.profiles, *catalog.focuses, *catalog.schedule}
    named |= {*catalog.budgets}
    assert [name for entries in shown.values() for name in entries if name not in named] == []


def unclear() -> Iterator[str]:
    for block in BLOCKS:
        if block.language not in (*RUN, *SHOWN):
            yield f"{block.place} is in {block.language!r}, expected one of {', '.join((*RUN, *SHOWN))}"


def test_every_block_says_what_it_is():
    """A fence without a language is a block that no test runs."""
    assert list(unclear()) == []


def test_few_blocks_are_not_run():
    """Each one that is not run is a promise that nobody checks."""
    not_run = [block.place for block in BLOCKS if block.why_not_run]

    assert len(not_run) <= MOST_NOT_RUN, not_run
