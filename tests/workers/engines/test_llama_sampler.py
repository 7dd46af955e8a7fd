"""The choice of the next token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.base import Request
from workers.engines.llama_sampler import Sampler, likeliest

WORDS = 3000


def a_row(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, WORDS).astype(np.float32)


def a_sampler(**settings: object) -> Sampler:
    fields: dict[str, object] = {
        "messages": [], "max_tokens": 1, "temperature": 1.0, "top_k": 0, "min_p": 0.0, "seed": 1, **settings,
    }  # fmt: skip
    return Sampler(Request(**fields))  # pyright: ignore[reportArgumentType]


def test_temperature_0_takes_the_likeliest():
    """Profiles that ask for no chance must get none."""
    row = a_row()

    assert a_sampler(temperature=0.0).choose(row) == row.argmax()


def test_tokens_come_as_often_as_the_model_says():
    """A sampler that is a little off makes every answer a little worse, and nobody sees why."""
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = a_sampler()

    chosen = np.bincount([sampler.choose(row) for _ in range(4000)], minlength=4) / 4000

    assert chosen == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_low_temperature_prefers_the_likely():
    """Squared shares: that is what half the temperature means."""
    row = np.log(np.array([0.6, 0.4], dtype=np.float32))
    sampler = a_sampler(temperature=0.5)

    chosen = [sampler.choose(row) for _ in range(4000)].count(0) / 4000

    assert chosen == pytest.approx(0.36 / (0.36 + 0.16), abs=0.03)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"min_p": 0.5}, {0, 1}), ({"top_p": 0.0}, {0})],
)
def test_what_a_setting_excludes_is_never_chosen(setting: dict[str, object], allowed: set[int]):
    """One word from the tail is enough to derail an answer."""
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = a_sampler(**setting)

    assert {sampler.choose(row) for _ in range(300)} == allowed


def test_the_same_seed_chooses_the_same():
    """A seed is a promise."""
    rows = [a_row(number) for number in range(50)]

    first, second, other = (
        [sampler.choose(row) for row in rows]
        for sampler in (a_sampler(seed=5), a_sampler(seed=5), a_sampler(seed=6))
    )

    assert first == second != other


def test_without_a_seed_answers_differ():
    """Ten variants of a post must not be one post ten times."""
    rows = [a_row(number) for number in range(50)]

    first, second = (
        [sampler.choose(row) for row in rows] for sampler in (a_sampler(seed=None), a_sampler(seed=None))
    )

    assert first != second


@given(st.integers(0, 1000), st.integers(1, 4000))
def test_the_likeliest_are_all_found(seed: int, count: int):
    """The shortcut through column maxima must not lose a token that belongs to the top."""
    row = a_row(seed)

    found = set(likeliest(row, count).tolist())

    assert set(np.argsort(-row)[:count].tolist()) <= found
