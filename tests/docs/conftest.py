"""A fleet as a newcomer has it: the shipped catalog, where echo stands in for the models on the processor."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import yaml

from config.settings import SHIPPED_CONFIG, Settings, read_settings
from tests.fleet.conftest import process, servers, wait_for


@pytest.fixture(scope="session")
def environment(short_folder: Callable[[], Path]) -> Iterator[dict[str, str]]:
    """Give the environment of a fleet whose profiles, focuses and models have the shipped names."""
    config = short_folder()
    models = yaml.safe_load((SHIPPED_CONFIG / "models.yaml").read_text(encoding="utf-8"))
    models["models"] = {name: on_echo(model) for name, model in models["models"].items()}
    (config / "models.yaml").write_text(json.dumps(models, default=str), encoding="utf-8")
    for name in ("profiles.yaml", "schedule.yaml"):
        copy(SHIPPED_CONFIG / name, config)
    with servers(short_folder(), config) as environment:
        yield environment


def on_echo(model: dict[str, Any]) -> dict[str, Any]:
    """Let a model answer from its input, if a machine without keys and without MLX could run it."""
    if model["engine"] != "llama":
        return model
    return {key: value for key, value in model.items() if key != "sources"} | {"engine": "echo"}


@pytest.fixture(scope="session")
def fleet(environment: dict[str, str]) -> Iterator[Settings]:
    """Run a dispatcher and a worker."""
    settings = read_settings(environment)
    with ExitStack() as stack:
        for arguments in (("dispatcher",), ("worker", "echo")):
            stack.enter_context(process(environment, "workers.cli", *arguments))
        wait_for(settings, "SELECT count(*) FROM workers", 1)
        yield settings
