"""Why an engine gave no answer, and what the brain learns from it.

EngineError
├── ContextTooLongError    the prompt and max_tokens do not fit the model's context
├── ModelUnavailableError  the model's file is missing, broken or of an unknown kind
├── BadRequestError        the model can never answer this request
│   ├── TextTooLongError    a text is longer than the embedding model reads
│   ├── CollectionError     the collection is not there, or another model's
│   ├── ContentRefusedError  its content policy refuses the request
│   └── UnsupportedRequestError it lacks what the request asks for
├── CancelledError         the caller no longer wants the answer
├── DeadlineError          the task's deadline passed before the answer was whole
├── AnswerRejectedError    there is an answer, but not what the task expects
└── ProviderError          the provider did not answer
    ├── RateLimitedError     too many requests just now
    ├── QuotaSpentError      nothing is left until a reset
    ├── PaymentRequiredError the account has no money
    ├── KeyRefusedError      the account does not know the key
    ├── ModelGoneError       it has no such model
    └── ServiceError         it failed
        ├── OverloadedError       it says so: 5xx
        ├── SilentError           no byte, no first token, or no next token in time
        ├── ConnectionLostError   the connection was refused or reset
        ├── CutAnswerError        the stream ended in the middle
        └── MalformedAnswerError  what came is no answer
"""

from datetime import datetime
from typing import ClassVar

from routing.lessons import Again, Cause, Lesson, Scope
from workers.engines.base import Completion


class EngineError(Exception):
    """A model call that gave no answer."""

    cause: ClassVar[Cause] = "task"
    again: ClassVar[Again] = "other"

    used: Completion | None = None
    """What the call may have cost all the same; None: nothing. It stays with the worker."""

    @property
    def lesson(self) -> Lesson:
        """What the brain learns from it."""
        return Lesson(self.cause, again=self.again)


class ContextTooLongError(EngineError):
    """The prompt and max_tokens do not fit the model's context."""

    again = "larger"

    def __init__(self, model: str, needed_tokens: int, context_tokens: int) -> None:
        super().__init__(model, needed_tokens, context_tokens)
        self.model = model
        self.needed_tokens = needed_tokens
        self.context_tokens = context_tokens

    def __str__(self) -> str:
        return (
            f"{self.model} has a context of {self.context_tokens} tokens, the task needs "
            f"{self.needed_tokens}; shorten the prompt, lower max_tokens or name a larger model"
        )


class ModelUnavailableError(EngineError):
    """The model's file is missing, broken or of an unknown kind."""

    cause = "fault"

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.model = model
        self.why = why

    def __str__(self) -> str:
        return f"{self.model} cannot run here: {self.why}"


class BadRequestError(EngineError):
    """The model can never answer this request."""

    again = "nobody"

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.model = model
        self.why = why

    def __str__(self) -> str:
        return f"{self.model} refused the request: {self.why}"


class TextTooLongError(BadRequestError):
    """A text is longer than the embedding model reads; nothing of the task was embedded."""

    def __init__(self, model: str, index: int, tokens: int, most_tokens: int) -> None:
        what = f"texts[{index}] has {tokens} tokens, it reads {most_tokens} of a text at most"
        super().__init__(model, what)
        self.args = (model, index, tokens, most_tokens)
        self.index = index
        self.tokens = tokens
        self.most_tokens = most_tokens

    def __str__(self) -> str:
        return f"{super().__str__()}; cut it into pieces"


class CollectionError(BadRequestError):
    """The collection is not there, or another model's."""

    def __init__(self, model: str, collection: str, why: str) -> None:
        super().__init__(model, f"the collection {collection!r} {why}")
        self.args = (model, collection, why)
        self.collection = collection


class ContentRefusedError(BadRequestError):
    """The model's content policy refuses the request; it is not taken to other providers."""


class UnsupportedRequestError(BadRequestError):
    """The model, or who runs it for the provider, cannot do what the request asks for: tools, say."""

    again = "other"


class CancelledError(EngineError):
    """The caller no longer wants the answer."""

    again = "nobody"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return f"the call of {self.model} was cancelled"


class DeadlineError(EngineError):
    """The task's deadline passed before the answer was whole."""

    again = "nobody"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return (
            f"the deadline passed before the answer of {self.model} was whole; give the task a later one, or "
            "lower max_tokens"
        )


class AnswerRejectedError(EngineError):
    """There is an answer, but not what the task expects."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.model = model
        self.why = why

    def __str__(self) -> str:
        return f"the answer of {self.model} was rejected: {self.why}"


class ProviderError(EngineError):
    """The provider did not answer; the fields are what it told."""

    says: ClassVar[str] = "did not answer"
    again = "same"

    def __init__(
        self,
        model: str,
        detail: str = "",
        until: datetime | str | None = None,
        scope: Scope = "model",
        upstream: str | None = None,
    ) -> None:
        """Describe the failure.

        Args:
            model: its catalog name.
            detail: what the provider said, without anything of the prompt.
            until: when it will take requests again, aware; None: it did not say.
            scope: whether it concerns this model, or all models of the account.
            upstream: the provider's own id of the model, as it was asked.
        """
        moment = datetime.fromisoformat(until) if isinstance(until, str) else until
        super().__init__(model, detail, moment.isoformat() if moment else None, scope, upstream)
        self.model = model
        self.detail = detail
        self.until = moment
        self.scope: Scope = scope
        self.upstream = upstream

    @property
    def lesson(self) -> Lesson:
        return Lesson(self.cause, self.scope, self.again, self.until, self.upstream)

    def __str__(self) -> str:
        whose = "the account" if self.scope == "provider" else self.model
        until = f" until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else ""
        return f"{whose} {self.says}{until}{': ' + self.detail if self.detail else ''}"


class RateLimitedError(ProviderError):
    """Too many requests just now."""

    cause = "rate_limit"
    says = "was told to slow down"


class QuotaSpentError(ProviderError):
    """Nothing is left until a reset."""

    cause = "quota"
    says = "has no quota left"


class PaymentRequiredError(ProviderError):
    """The account has no money; add some, or take its models out of the profiles."""

    cause = "payment"
    says = "has no money left"


class KeyRefusedError(ProviderError):
    """The account does not know the key; check the environment variable that the catalog names."""

    cause = "key"
    says = "does not accept the key"


class ModelGoneError(ProviderError):
    """The provider has no such model; give it a retirement date and a successor in models.yaml."""

    cause = "gone"
    again = "other"
    says = "is gone from its provider"


class ServiceError(ProviderError):
    """The provider failed."""

    cause = "fault"
    says = "failed"


class OverloadedError(ServiceError):
    """The provider says that it cannot answer now."""

    says = "is overloaded"


class SilentError(ServiceError):
    """No byte, no first token, or no next token came in time."""

    again = "other"
    says = "said nothing in time"


class ConnectionLostError(ServiceError):
    """The connection was refused or reset."""

    says = "closed the connection"


class CutAnswerError(ServiceError):
    """The stream ended in the middle of the answer."""

    again = "other"
    says = "cut its answer"


class MalformedAnswerError(ServiceError):
    """What came is no answer."""

    again = "other"
    says = "sent no answer that can be read"
