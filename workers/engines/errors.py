"""Why an engine gave no answer.

EngineError
├── ContextTooLongError   the prompt and max_tokens do not fit the model's context
├── ModelUnavailableError the model's file is missing, broken or of an unknown kind
├── BadRequestError       the model can never answer this request
└── CancelledError        the caller no longer wants the answer
"""


class EngineError(Exception):
    """A model call that gave no answer."""

    retryable = True
    """Whether another candidate may still answer."""


class ContextTooLongError(EngineError):
    """The prompt and max_tokens do not fit the model's context."""

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

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.model = model
        self.why = why

    def __str__(self) -> str:
        return f"{self.model} cannot run here: {self.why}"


class BadRequestError(EngineError):
    """The model can never answer this request."""

    retryable = False

    def __init__(self, model: str, why: str) -> None:
        super().__init__(model, why)
        self.model = model
        self.why = why

    def __str__(self) -> str:
        return f"{self.model} refused the request: {self.why}"


class CancelledError(EngineError):
    """The caller no longer wants the answer."""

    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return f"the call of {self.model} was cancelled"
