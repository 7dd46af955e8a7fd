"""Which models are in memory: with engines that take none, and a host whose memory is a number."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from config.models import Model
from workers.engines.base import Loaded
from workers.engines.echo import EchoEngine
from workers.engines.errors import CancelledError, ModelUnavailableError
from workers.residents import Residents


class Closable(EchoEngine):
    """An echo that can be closed."""

    closed = False

    @property
    def is_closed(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Host:
    """A host with room for a number of bytes, of which each model takes its own."""

    def __init__(self, room: int, **sizes: int) -> None:
        self.sizes = sizes
        self.engines: dict[str, Loaded] = {}
        self.loads: list[str] = []
        self.room = room
        self.residents = Residents(
            self.engines,
            self.make,
            self.needed,
            lambda: self.room - self.used(),
            budget_bytes=10**12,
            turn_s=0.3,
        )

    def make(self, model: Model) -> Loaded:
        assert self.used() + self.needed(model) <= self.room, "loaded without room"
        self.loads.append(model.name)
        return Closable(model.name)

    def needed(self, model: Model) -> int:
        return self.sizes[model.name]

    def used(self) -> int:
        return sum(self.sizes[name] for name, engine in self.engines.items() if not engine.is_closed)

    def touch(self, *names: str) -> None:
        for name in names:
            with self.residents.use(a_model(name), never) as engine:
                assert not engine.is_closed


def a_model(name: str) -> Model:
    return Model.model_validate({"name": name, "tier": "local", "engine": "echo", "context_tokens": 100})


def never() -> bool:
    return False


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(100, small=30, other=30, third=30, large=80, giant=200, free=0)
    yield host
    host.residents.close()


def test_a_model_is_loaded_once(host: Host):
    """A load takes seconds; a call of a small model takes less."""
    host.touch("small", "small", "other", "small")

    assert host.loads == ["small", "other"]


def test_the_model_that_was_used_the_longest_ago_makes_room(host: Host):
    """The others are more likely to be asked for next."""
    host.touch("small", "other", "third", "small")
    host.touch("large")
    assert set(host.engines) == {"large"}

    host.touch("small", "other", "third", "small")
    host.room += 20
    host.sizes["new"] = 30
    host.touch("new", "small")
    assert "small" in host.engines


def test_only_as_many_go_as_must(host: Host):
    """Each one that goes is a load later."""
    host.touch("small", "other", "third")
    host.sizes["fourth"] = 30
    host.touch("fourth")

    assert set(host.engines) == {"other", "third", "fourth"}


def test_a_model_that_fits_nowhere_is_refused(host: Host):
    """A worker that swaps takes the whole host down; another candidate may answer."""
    with pytest.raises(ModelUnavailableError, match="memory"):
        host.touch("giant")

    host.touch("small")


def test_a_model_in_use_is_waited_for(host: Host):
    """An engine that is closed under a call fails it, and the call was good."""
    with ThreadPoolExecutor(1) as callers:
        with host.residents.use(a_model("small"), never) as small:
            waiting = callers.submit(host.touch, "large")
            time.sleep(0.3)
            assert not waiting.done()
            assert not small.is_closed
        waiting.result(5)
        assert small.is_closed


def test_whoever_waits_for_room_can_be_called_off(host: Host):
    """A task that was cancelled, or a worker that stops, does not wait for a model."""
    called_off = threading.Event()
    with ThreadPoolExecutor(1) as callers, host.residents.use(a_model("small"), never):
        waiting = callers.submit(host.residents.use(a_model("large"), called_off.is_set).__enter__)
        time.sleep(0.3)
        called_off.set()
        with pytest.raises(CancelledError):
            waiting.result(5)


def test_whoever_waits_long_gets_a_turn(host: Host):
    """A model that is asked for without end would keep all others out for ever."""
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            with host.residents.use(a_model("small"), never):
                time.sleep(0.05)

    with ThreadPoolExecutor(3) as callers:
        for _ in range(2):  # never both at rest at once
            callers.submit(keep_busy)
            time.sleep(0.025)
        try:
            callers.submit(host.touch, "large").result(10)
        finally:
            stop.set()

    assert "large" in host.loads


def test_an_idle_model_is_given_up(host: Host):
    """Memory that is kept for a model of this morning is not there for people's own programs."""
    host.touch("small", "free")
    with host.residents.use(a_model("other"), never):
        host.residents.unload_idle(0)

        assert set(host.engines) == {"other", "free"}


def test_an_engine_that_ended_by_itself_is_loaded_again(host: Host):
    """A fault of its own must not end the model for as long as the worker lives."""
    host.touch("small")
    host.engines["small"].close()

    host.touch("small")

    assert host.loads == ["small", "small"]


def test_a_load_that_fails_leaves_the_way_free(host: Host):
    """The next one may go well: memory comes back, a file is fetched."""

    def fail(model: Model) -> Loaded:
        raise ModelUnavailableError(model.name, "made up")

    host.residents._make = fail
    with pytest.raises(ModelUnavailableError, match="made up"):
        host.touch("small")
    host.residents._make = host.make

    host.touch("small")
