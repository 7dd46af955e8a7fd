"""A real model for the engines under test: the starter model, fetched once for this user."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG
from workers.engines.llama import LlamaEngine
from workers.model_files import pull


@pytest.fixture(scope="session")
def starter() -> Path:
    """Find the file of SmolLM2-135M-Instruct, or fetch it: 93 MB."""
    model = load_catalog(SHIPPED_CONFIG).model("smollm2")
    return pull(model, lambda _done, _total, _label: None).path


@pytest.fixture(scope="module")
def engine(starter: Path) -> Iterator[LlamaEngine]:
    # One thread: with more, whatever else runs on the machine makes each step several times longer.
    engine = LlamaEngine("smollm2", starter, context_tokens=1024, slots=4, prefixes=2, threads=1)
    yield engine
    engine.close()
