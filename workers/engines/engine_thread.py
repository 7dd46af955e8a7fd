"""The one thread that owns a model: it loads it, takes step after step with it, and frees it.

llama.cpp's and MLX's threads and streams belong to whoever called them first, so nobody else may. Other
threads hand it their calls, and wait.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from workers.engines.errors import CancelledError, DeadlineError, ModelUnavailableError

R = TypeVar("R")


class Call(Protocol[R]):
    """One call of an engine, from the moment it is asked."""

    @property
    def cancelled(self) -> Callable[[], bool]: ...
    @property
    def done(self) -> Future[R]: ...


C = TypeVar("C", bound=Call[Any])

TOGETHER_S = 0.05
"""How long a call that finds nothing to do may wait for those that are being prepared beside it."""


class Work(Protocol[C]):
    """A loaded model with the calls that it answers; only its own thread touches it."""

    @property
    def waiting(self) -> deque[C]:
        """Those that have not begun."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        ...

    def step(self) -> None:
        """Go on with all calls by a little: an answer by about one token."""
        ...

    def forget_all(self) -> Iterable[C]:
        """Stop what runs; the calls that ran."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


W = TypeVar("W", bound=Work[Any])


class EngineThread(Generic[W]):
    """A thread, and what others hand to it."""

    def __init__(self, name: str, make: Callable[[], W]) -> None:
        """Load a model in a thread of its own.

        Args:
            name: of the model.
            make: loads it; what it raises is raised here.
        """
        self.name = name
        self._arrived: list[Any] = []
        self._visitors = 0
        """Other threads that use the vocabulary to prepare a call: it must not be freed under their hands."""
        self._changed = threading.Condition()
        self._is_closed = False
        self._why = "the engine was closed"
        loaded: Future[W] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(loaded, make), name=f"engine-{name}", daemon=True
        )
        self._thread.start()
        self.work = loaded.result()
        """What others may read of it while `visit` keeps it from being freed."""

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @contextmanager
    def visit(self) -> Generator[W]:
        """Give another thread what it prepares its call with; it is not freed meanwhile.

        Raises:
            ModelUnavailableError: the engine was closed.
        """
        with self._changed:
            self._check_open()
            self._visitors += 1
        try:
            yield self.work
        finally:
            with self._changed:
                self._visitors -= 1
                self._changed.notify_all()

    def begin(self, call: Call[Any]) -> None:
        """Hand in a call, from within `visit`; it ends whatever happens.

        Raises:
            ModelUnavailableError: the engine was closed.
        """
        with self._changed:
            self._check_open()
            self._arrived.append(call)
            self._changed.notify_all()

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()

    def _closed_error(self) -> ModelUnavailableError:
        return ModelUnavailableError(self.name, self._why)

    # What follows runs in the thread.

    def _live(self, loaded: Future[W], make: Callable[[], W]) -> None:
        try:
            work = make()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
            loaded.set_exception(error)
            return
        loaded.set_result(work)
        try:
            while self._wait_for_calls(work):
                work.step()
        except Exception as error:  # noqa: BLE001 - every call that waits is told of it; the next loads anew
            self._why = f"a step failed: {type(error).__name__}: {error}"
        finally:  # nobody may wait for an answer that never comes
            with self._changed:
                self._is_closed = True
                self._changed.wait_for(lambda: not self._visitors)
            fail([*work.forget_all(), *work.waiting, *self._arrived], self._closed_error())
            work.close()

    def _wait_for_calls(self, work: W) -> bool:
        """Take in the calls that arrived, after a sleep if there is nothing to do; false: to be closed.

        Calls that come at once are then read at once: the first of them does not begin a step of its own.
        """
        with self._changed:
            if work.is_idle:
                self._changed.wait_for(lambda: self._arrived or self._is_closed)
                self._changed.wait_for(lambda: not self._visitors or self._is_closed, TOGETHER_S)
            work.waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._is_closed


def end_if_given_up(call: Call[Any], name: str, deadline: datetime | None = None) -> bool:
    """End a call that nobody waits for any more, if that is so: it was cancelled, or its deadline passed."""
    try:
        if call.cancelled():
            call.done.set_exception(CancelledError(name))
        elif deadline is not None and deadline <= datetime.now(UTC):
            call.done.set_exception(DeadlineError(name))
        else:
            return False
    except Exception as error:  # noqa: BLE001 - the caller's own function failed: it is the caller's error
        call.done.set_exception(error)
    return True


def emit(piece: str, show: Callable[[str], Any]) -> None:
    if piece:
        show(piece)


def fail(calls: Iterable[Call[Any]], error: Exception) -> None:
    for call in calls:
        call.done.set_exception(error)
