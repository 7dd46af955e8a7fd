"""Asks a provider over the network: streaming inside, whole answers outside, one call for one attempt.

Nothing is tried again here and nobody else is asked: the brain decides that, from the error.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Protocol

from config.models import Model, Provider, timeouts_of
from routing.tokens import estimate_tokens, tokens_in
from workers.engines.base import Completion, Request
from workers.engines.cloud_answer import StreamedAnswer, Usage
from workers.engines.cloud_errors import Asked, error_in, refusal, status_in
from workers.engines.cloud_watch import CalledOffError, TooLateError, Watch
from workers.engines.cloud_wire import Event, GarbledError, LostError, RefusedError, Wire, parsed
from workers.engines.errors import (
    CancelledError,
    ConnectionLostError,
    ContentRefusedError,
    CutAnswerError,
    EngineError,
    MalformedAnswerError,
    ServiceError,
    SilentError,
)

FILTERED = "content_filter"
"""The finish reason of an answer that was broken off because of its content."""

FAILED = "error"
"""The finish reason of an answer during which the provider failed."""

NAMED_FAULTS: tuple[tuple[type[Exception], type[ServiceError]], ...] = (
    (TooLateError, SilentError),
    (GarbledError, MalformedAnswerError),
    (LostError, ConnectionLostError),
)


class Events(Protocol):
    """A way to a provider: OpenAI's HTTP API, or litellm."""

    def events(self, asked: Mapping[str, Any], watch: Watch) -> Generator[Event]:
        """Send a request and give out what comes."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


class CloudEngine:
    """A model of a provider; called from many threads, each of which keeps a connection."""

    def __init__(self, model: Model, provider: Provider, way: Events, *, slots: int) -> None:
        self.slots = slots
        self._model = model
        self._extra_body = {**provider.extra_body, **model.extra_body}
        self._timeouts = timeouts_of(model, provider)
        self._way = way
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """End the connections."""
        self._is_closed = True
        self._way.close()

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Ask the provider, and put its stream together."""
        watch = Watch(*self._timeouts, cancelled)
        answer = StreamedAnswer()
        try:
            with closing(self._way.events(self._body(request), watch)) as events:
                for event in events:
                    self._take(event, answer, watch, request, on_token)
        except CalledOffError:
            raise CancelledError(self._model.name) from None
        except RefusedError as refused:
            raise self._refusal(request, refused.status, refused.headers, content(refused.body)) from None
        except (TooLateError, GarbledError, LostError) as fault:
            # What comes after the reason why it ended is its usage: the answer is whole without.
            if answer.finish_reason is None or isinstance(fault, GarbledError):
                raise self._failure(request, answer, watch, fault) from None
        return self._completion(request, answer, watch)

    def _take(
        self,
        event: Event,
        answer: StreamedAnswer,
        watch: Watch,
        request: Request,
        on_token: Callable[[str], None],
    ) -> None:
        """Take one event of the stream.

        Raises:
            GarbledError: it has not the form of one.
            EngineError: it says that the provider failed.
        """
        error = error_in(event)
        if error is not None:
            failure = self._refusal(request, status_in(error), {}, event)
            raise self._charged(failure, request, answer) if watch.first_token_s is not None else failure
        try:
            text, has_grown = answer.take(event)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise GarbledError("a chunk of an unknown form") from None
        if has_grown:
            watch.token()
        if answer.finish_reason is not None:
            watch.whole()
        if text:
            on_token(text)

    def _completion(self, request: Request, answer: StreamedAnswer, watch: Watch) -> Completion:
        """Make the completion of a stream that has ended.

        Raises:
            CutAnswerError: it ended before the answer did.
            ContentRefusedError: the provider broke the answer off because of its content.
        """
        name, upstream = self._model.name, self._model.upstream
        if answer.finish_reason in (None, FAILED):
            cut = CutAnswerError(name, "the stream ended before the answer", upstream=upstream)
            raise self._charged(cut, request, answer)
        if answer.finish_reason == FILTERED:
            refused = ContentRefusedError(name, f"finish_reason {FILTERED}")
            refused.used = self._used(request, answer)
            raise refused
        return self._used(request, answer, first_token_s=watch.first_token_s)

    def _used(
        self, request: Request, answer: StreamedAnswer, *, first_token_s: float | None = None
    ) -> Completion:
        usage = answer.usage or estimated(request, answer)
        return Completion(
            text=answer.text,
            finish_reason=answer.finish_reason or "stop",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            first_token_s=first_token_s,
            cost_usd=usage.cost_usd,
            is_estimated=answer.usage is None,
            extras=answer.extras,
            logprobs=answer.logprobs,
        )

    def _refusal(
        self, request: Request, status: int, headers: Mapping[str, str], body: object
    ) -> EngineError:
        needed = estimate_tokens(request.messages, request.tools or ()) + request.max_tokens
        asked = Asked(self._model.name, self._model.upstream, needed, self._model.context_tokens)
        return refusal(asked, status, headers, body, datetime.now(UTC))

    def _failure(
        self, request: Request, answer: StreamedAnswer, watch: Watch, fault: Exception
    ) -> EngineError:
        """Say what a fault of the connection means."""
        name, upstream = self._model.name, self._model.upstream
        if isinstance(fault, LostError) and watch.first_token_s is not None:
            return self._charged(CutAnswerError(name, str(fault), upstream=upstream), request, answer)
        kind = next(ours for theirs, ours in NAMED_FAULTS if isinstance(fault, theirs))
        failure = kind(name, str(fault), upstream=upstream)
        is_sent = not isinstance(fault, LostError) or fault.is_sent
        return self._charged(failure, request, answer) if is_sent else failure

    def _charged(self, failure: EngineError, request: Request, answer: StreamedAnswer) -> EngineError:
        """Note that the provider may charge for a call that failed: it had the request."""
        failure.used = self._used(request, answer)
        return failure

    def _body(self, request: Request) -> dict[str, Any]:
        """Write the request as OpenAI's API has it; what is at its default is left out."""
        said = {
            "model": self._model.upstream,
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p if request.top_p < 1 else None,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "presence_penalty": request.presence_penalty or None,
            "frequency_penalty": request.frequency_penalty or None,
            "logit_bias": {str(token): bias for token, bias in request.logit_bias.items()} or None,
            "logprobs": None if request.top_logprobs is None else True,
            "top_logprobs": request.top_logprobs or None,
            "response_format": request.response_format,
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._extra_body,
        }
        return {key: value for key, value in said.items() if value is not None}


def estimated(request: Request, answer: StreamedAnswer) -> Usage:
    """Count what a provider did not: rather too much than too little."""
    prompt = estimate_tokens(request.messages, request.tools or ())
    return Usage(prompt, tokens_in(answer.all_text), 0, None)


def content(body: bytes) -> object:
    """Read an error's body: JSON, or else its text."""
    try:
        return parsed(body)
    except GarbledError:
        return body.decode(errors="replace")


def load(model: Model, provider: Provider, key: str | None, *, slots: int) -> CloudEngine:
    """Make the engine of a provider's model; the key goes no further than its connection.

    Raises:
        ModelUnavailableError: litellm has to speak to it and is not installed.
    """
    name = provider.litellm_name
    if name is not None:
        from workers.engines.cloud_litellm import LitellmWay  # noqa: PLC0415 - costs seconds and its extra

        return CloudEngine(model, provider, LitellmWay(model, provider, name, key), slots=slots)
    return CloudEngine(model, provider, Wire(provider.api_base or "", key), slots=slots)
