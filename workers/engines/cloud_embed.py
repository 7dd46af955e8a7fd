"""Asks a provider for embeddings over OpenAI's HTTP API: one request for one attempt, as in `cloud`."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from config.models import Model, Provider, timeouts_of
from routing.tokens import tokens_in
from workers.engines.base import Completion, Vectors
from workers.engines.cloud import NAMED_FAULTS, content
from workers.engines.cloud_answer import count, dollars
from workers.engines.cloud_errors import Asked, refusal
from workers.engines.cloud_watch import CalledOffError, TooLateError, Watch
from workers.engines.cloud_wire import GarbledError, LostError, RefusedError, Wire
from workers.engines.errors import CancelledError, EngineError, MalformedAnswerError


class CloudEmbedder:
    """An embedding model of a provider; called from many threads, each of which keeps a connection."""

    def __init__(self, model: Model, provider: Provider, wire: Wire, *, slots: int) -> None:
        self.slots = slots
        self._model = model
        self._extra_body = {**provider.extra_body, **model.extra_body}
        self._total_s = timeouts_of(model, provider)[2]
        self._wire = wire
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """End the connections."""
        self._is_closed = True
        self._wire.close()

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        """Ask the provider; all texts in one request."""
        name, upstream = self._model.name, self._model.upstream
        body = {"model": upstream, "input": list(texts), "encoding_format": "float", **self._extra_body}
        asked = {key: value for key, value in body.items() if value is not None}
        # Nothing comes before all is there.
        watch = Watch(self._total_s, self._total_s, self._total_s, cancelled)
        try:
            found = self._wire.document("/embeddings", watch, asked)
        except CalledOffError:
            raise CancelledError(name) from None
        except RefusedError as refused:
            needed = max(map(tokens_in, texts))
            call = Asked(name, upstream, needed, self._model.context_tokens)
            said = content(refused.body)
            raise refusal(call, refused.status, refused.headers, said, datetime.now(UTC)) from None
        except (TooLateError, GarbledError, LostError) as fault:
            kind = next(ours for theirs, ours in NAMED_FAULTS if isinstance(fault, theirs))
            failure = kind(name, str(fault), upstream=upstream)
            is_sent = not isinstance(fault, LostError) or fault.is_sent
            raise charged(failure, texts) if is_sent else failure from None
        try:
            return vectors_in(found, texts)
        except (ValueError, TypeError, KeyError, AttributeError):
            failure = MalformedAnswerError(name, "embeddings of an unknown form", upstream=upstream)
            raise charged(failure, texts) from None


def charged(failure: EngineError, texts: Sequence[str]) -> EngineError:
    """Note that the provider may charge for a call that failed: it had the request."""
    tokens = sum(map(tokens_in, texts))
    failure.used = Completion("", "stop", prompt_tokens=tokens, completion_tokens=0, is_estimated=True)
    return failure


def vectors_in(found: Mapping[str, Any], texts: Sequence[str]) -> Vectors:
    """Read the provider's answer.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it has not the form of one.
    """
    data: list[Mapping[str, Any]] = sorted(found["data"], key=lambda each: each["index"])
    if [each["index"] for each in data] != list(range(len(texts))):
        raise ValueError("not one vector for each text")
    estimates = [tokens_in(text) for text in texts]
    usage: Mapping[str, Any] = found.get("usage") or {}
    counted = count(usage.get("prompt_tokens"))
    return Vectors(
        numbers=[unit([float(number) for number in each["embedding"]]) for each in data],
        tokens=estimates if counted is None else shared(counted, estimates),
        cost_usd=dollars(usage.get("cost")),
        is_estimated=counted is None,
    )


def unit(vector: list[float]) -> list[float]:
    """Give a vector of the same direction and of length 1."""
    length = math.hypot(*vector)
    if not length or not math.isfinite(length):
        raise ValueError("a vector without a direction")
    return [number / length for number in vector]


def shared(tokens: int, estimates: Sequence[int]) -> list[int]:
    """Share out what was counted of all texts together, by their estimates; the shares add up to it."""
    every = sum(estimates) or 1
    upto = [tokens * sum(estimates[: index + 1]) // every for index in range(len(estimates))]
    return [end - begin for begin, end in zip([0, *upto], upto, strict=False)]


def load(model: Model, provider: Provider, key: str | None, *, slots: int) -> CloudEmbedder:
    """Make the engine of a provider's embedding model; the key goes no further than its connection."""
    return CloudEmbedder(model, provider, Wire(provider.api_base or "", key), slots=slots)
