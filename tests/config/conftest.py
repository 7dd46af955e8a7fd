"""A small catalog on disk, with some of its text replaced."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]

MODELS = """\
providers:
  openrouter:
    api_key_env: OPENROUTER_API_KEY
models:
  small:
    tier: local
    engine: llama
    sources: [{ollama: small}]
    context_tokens: 8192
  free:
    tier: free
    engine: cloud
    provider: openrouter
    upstream: someone/free
    context_tokens: 8192
  vectors:
    tier: local
    kind: embedding
    engine: llama
    sources: [{file: ~/vectors.gguf}]
    context_tokens: 2048
    dimensions: 768
"""

PROFILES = """\
profiles:
  social:
    model: free
    fallbacks: [small]
    temperature: 0.8
    max_tokens: 1024
    prompt: Write a post.
focuses:
  journalist: {model: free}
routing:
  primary: free
  fallbacks: [small]
  last_resort: [small]
"""

SCHEDULE = """\
schedule:
  heartbeat: {every: 15m, profile: social}
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the catalog with each (old, new) pair replaced, wherever it stands."""

    def write_files(*replaced: tuple[str, str]) -> Path:
        texts = {"models.yaml": MODELS, "profiles.yaml": PROFILES, "schedule.yaml": SCHEDULE}
        for old, new in replaced:
            assert any(old in text for text in texts.values()), old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        for name, text in texts.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write_files
