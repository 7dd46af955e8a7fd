"""Providers that do not speak OpenAI's API, through litellm: it knows a hundred of them.

litellm's own retries and fallbacks are off: one call is one attempt, and the brain decides what is next.

Source: litellm 1.106.2, read and measured 2026-11. It ends a stream that was cut with a finish reason of its
own making, and counts tokens itself where the provider did not; both are left out here.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpx

from config.models import Model, Provider, timeouts_of
from config.settings import quiet_litellm
from workers.engines.cloud_watch import CONNECT_S, TooLateError, Watch
from workers.engines.cloud_wire import POLL_S, Event, LostError, RefusedError
from workers.engines.errors import ModelUnavailableError

quiet_litellm()
try:
    import litellm
except ImportError:
    litellm = None

NOT_LITELLMS = ("stream", "model")
"""Keys of the body that are said otherwise."""


class LitellmWay:
    """A provider as litellm knows it."""

    def __init__(self, model: Model, provider: Provider, name: str, key: str | None) -> None:
        if litellm is None:
            why = "its provider needs litellm; install the extra `cloud` of aria-fleet"
            raise ModelUnavailableError(model.name, why)
        litellm.suppress_debug_info = True  # it prints advice
        first_token_s, between_tokens_s, _ = timeouts_of(model, provider)
        # httpx has one limit for every read; the watch looks whenever something comes.
        read_s = max(first_token_s, between_tokens_s)
        self._options: dict[str, Any] = {
            "model": f"{name}/{model.upstream}",
            "api_key": key,
            "api_base": provider.api_base,
            "timeout": httpx.Timeout(read_s, connect=CONNECT_S),
            "max_retries": 0,
            "num_retries": 0,
            "drop_params": True,
        }

    def events(self, asked: Mapping[str, Any], watch: Watch) -> Generator[Event]:
        """Ask through litellm; see `Wire.events`.

        litellm is read in a thread of its own, which is left behind where it does not come back in time: its
        read limits take a keep-alive comment for a token, and it cannot be called off.
        """
        call = Call({key: value for key, value in asked.items() if key not in NOT_LITELLMS} | self._options)
        Thread(target=call.run, name="litellm", daemon=True).start()
        try:
            while True:
                try:
                    came = call.came.get(timeout=min(watch.left(), POLL_S))
                except Empty:
                    continue
                if came is None:
                    return
                if isinstance(came, Exception):
                    raise came
                yield came
        finally:
            call.is_left = True

    def close(self) -> None:
        """Do nothing: litellm keeps its connections for all."""


class Call:
    """One call through litellm, and what came of it so far."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self.came: SimpleQueue[Event | Exception | None] = SimpleQueue()
        """Events; then None, or what went wrong."""
        self.is_left = False

    def run(self) -> None:
        """Make the call."""
        try:
            stream: Any = litellm.completion(stream=True, **self.asked)  # pyright: ignore[reportOptionalMemberAccess]
            for event in chunks(stream):
                if self.is_left:
                    close(stream)
                    return
                self.came.put(event)
            self.came.put(None)
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self.came.put(in_our_words(error))


def chunks(stream: Any) -> Iterator[Event]:  # noqa: ANN401 - litellm's stream
    """Give out the chunks without what litellm made up, and at the end the provider's own finish reason."""
    for chunk in stream:
        event: dict[str, Any] = chunk.model_dump(exclude_none=True)
        event.pop("usage", None)
        for choice in event.get("choices", ()):
            choice.pop("finish_reason", None)
        yield event
    reason = stream.received_finish_reason or stream.intermittent_finish_reason
    usage = next((told for chunk in reversed(stream.chunks) if (told := usage_of(chunk))), None)
    if reason is not None:
        choice = {"index": 0, "delta": {}, "finish_reason": reason}
        yield {"choices": [choice], **({"usage": usage} if usage else {})}


def usage_of(chunk: Any) -> dict[str, Any] | None:  # noqa: ANN401 - litellm's chunk
    """Read the usage that the provider sent with a chunk."""
    usage = getattr(chunk, "usage", None)
    return usage.model_dump(exclude_none=True) if usage is not None else None


def close(stream: Any) -> None:  # noqa: ANN401 - litellm's stream
    """End the connection of a stream that was left early."""
    with suppress(Exception):
        stream.completion_stream.close()


def in_our_words(error: Any) -> Exception:  # noqa: ANN401 - litellm's exceptions
    """Turn litellm's exception into what it was made of: status, headers, body."""
    if not hasattr(error, "llm_provider"):
        return error
    kind = type(error).__name__
    if kind == "Timeout":
        return TooLateError("no byte in time")
    status = int(getattr(error, "status_code", None) or 500)
    body = body_in(str(error))
    if kind in ("APIConnectionError", "MidStreamFallbackError") and not body:
        return LostError(f"the connection broke ({kind})", is_sent=True)
    headers = getattr(error, "litellm_response_headers", None)
    if not headers:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return RefusedError(status, dict(headers), body or str(error).encode())


def body_in(message: str) -> bytes:
    """Find the provider's JSON inside litellm's sentence; empty: there is none."""
    begin = message.find("{")
    if begin < 0:
        return b""
    try:
        found, _ = json.JSONDecoder().raw_decode(message[begin:])
    except ValueError:
        return b""
    return json.dumps(found).encode()
