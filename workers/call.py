"""The arguments of `complete`, checked: in the caller's process, and again when the task is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeGuard

from config.catalog import Catalog
from config.models import TIERS, Capability
from config.profiles import Expect
from routing.tokens import estimate_tokens, parts_of, script_of, wide_tokens
from workers.arguments import check_names, checked_metadata
from workers.errors import InvalidCallError
from workers.sampling import checked_sampling, sampling_needs
from workers.values import closest, kind, money, name, one_of, real, storable, whole

ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_STOPS = 16
HIGHEST_TEMPERATURE = 2.0
LARGEST_SEED = 2**63 - 1
LONGEST_PATIENCE_S = 30 * 24 * 3600
RESPONSE_TYPES = ("text", "json_object", "json_schema")
TOOL_CHOICES = ("auto", "none", "required")

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """What a caller asks, with the defaults of its profile filled in."""

    profile: str | None
    focus: str | None
    model: str | None
    agent: str
    messages: Messages
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    patience_s: float | None
    max_tier: str | None
    max_cost_usd: Decimal | None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    expect: Expect | None = None
    metadata: dict[str, Any] | None = None
    worker: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The rest of how tokens are chosen: only what the caller named."""

    @property
    def request(self) -> dict[str, Any]:
        """What the model is asked, as the ledger keeps it."""
        special = {
            "response_format": self.response_format,
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "sampling": dict(self.sampling) or None,
            "expect": self.expect.model_dump(mode="json", exclude_defaults=True) if self.expect else None,
        }
        return {
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": list(self.stop),
            "seed": self.seed,
            **{name: value for name, value in special.items() if value is not None},
        }

    @property
    def needs(self) -> dict[str, Any]:
        """What a plan looks at, as the ledger keeps it."""
        return {
            "prompt_tokens": estimate_tokens(self.messages, self.tools or ()),
            "script": script_of(self.messages),
            "wide_tokens": wide_tokens(self.messages),
            "max_tokens": self.max_tokens,
            "requires": self.requires,
            "patience_s": self.patience_s,
            "max_tier": self.max_tier,
            "max_cost_usd": None if self.max_cost_usd is None else str(self.max_cost_usd),
            **({"worker": self.worker} if self.worker else {}),
        }

    @property
    def requires(self) -> list[Capability]:
        """What a model must be able to do besides text."""
        needed: dict[Capability, bool] = {
            "tools": bool(self.tools),
            "json_schema": self.response_format is not None and self.response_format["type"] != "text",
            "vision": any(
                part.get("type") == "image_url" for message in self.messages for part in parts_of(message)
            ),
        }
        return [
            *(capability for capability, is_needed in needed.items() if is_needed),
            *sampling_needs(self.sampling),
        ]


def check_call(
    catalog: Catalog,
    prompt: object = None,
    *,
    messages: object = None,
    profile: object = None,
    focus: object = None,
    model: object = None,
    agent: object = None,
    temperature: object = None,
    max_tokens: object = None,
    top_p: object = None,
    stop: object = None,
    seed: object = None,
    patience: object = None,
    max_tier: object = None,
    max_cost_usd: object = None,
    top_k: object = None,
    min_p: object = None,
    presence_penalty: object = None,
    frequency_penalty: object = None,
    repeat_penalty: object = None,
    logit_bias: object = None,
    logprobs: object = None,
    top_logprobs: object = None,
    grammar: object = None,
    response_format: object = None,
    tools: object = None,
    tool_choice: object = None,
    expect: object = None,
    metadata: object = None,
    worker: object = None,
) -> Call:
    """Check what `complete` was called with and fill in what it left open.

    Raises:
        InvalidCallError: an argument is not what it should be; says which, and what was expected.
        UnknownNameError: the profile, focus or model is not in the catalog; says which are.
    """
    profile_name, focus_name, model_name = (
        name(argument, value)
        for argument, value in (("profile", profile), ("focus", focus), ("model", model))
    )
    settings = catalog.profile(profile_name) if profile_name else None
    if focus_name:
        catalog.focus(focus_name)
    if model_name and catalog.model(model_name).kind != "chat":
        raise InvalidCallError("model", f"a chat model, got {model_name!r}, which makes embeddings")
    if worker is not None and model_name is None:
        raise InvalidCallError("worker", "beside a model of that worker, got no model")
    asked = conversation(prompt, messages, default=settings.prompt if settings else None)
    system = settings.system if settings else None
    if system and all(message["role"] not in ("system", "developer") for message in asked):
        asked = [{"role": "system", "content": system}, *asked]
    defaults = settings or catalog.routing
    form = response_form(response_format)
    return Call(
        profile=profile_name,
        focus=focus_name,
        model=model_name,
        agent=name("agent", agent) or "default",
        messages=asked,
        max_tokens=whole("max_tokens", max_tokens, 1, 1_000_000) or defaults.max_tokens,
        temperature=real("temperature", temperature, 0, HIGHEST_TEMPERATURE, default=defaults.temperature),
        top_p=real("top_p", top_p, 0, 1, default=1.0),
        stop=stops(stop),
        seed=whole("seed", seed, 0, LARGEST_SEED),
        patience_s=None if patience is None else real("patience", patience, 0, LONGEST_PATIENCE_S, default=0),
        max_tier=one_of("max_tier", max_tier, TIERS),
        max_cost_usd=money("max_cost_usd", max_cost_usd),
        response_format=form,
        tools=checked_tools(tools),
        tool_choice=checked_choice(tool_choice, tools),
        expect=expectation(expect, settings.expect if settings else None, form),
        metadata=checked_metadata(metadata),
        worker=name("worker", worker),
        sampling=checked_sampling(
            top_k=top_k,
            min_p=min_p,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repeat_penalty=repeat_penalty,
            logit_bias=logit_bias,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            grammar=grammar,
            has_form=form is not None and form["type"] != "text",
        ),
    )


def check_arguments(catalog: Catalog, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Check arguments as a message carries them, from a caller that checked nothing itself.

    Raises:
        InvalidCallError: an argument is unknown, or is not what it should be.
        UnknownNameError: the profile, focus or model is not in the catalog.
    """
    check_names(check_call, args, kwargs)
    return check_call(catalog, *args, **kwargs)


def conversation(prompt: object, messages: object, *, default: str | None) -> Messages:
    """Make the list of messages out of a prompt, of messages, or of the profile's default prompt."""
    if prompt is not None and messages is not None:
        raise InvalidCallError("messages", "either a prompt or messages, got both")
    if messages is not None:
        return checked_messages(messages)
    if prompt is None:
        if default is None:
            raise InvalidCallError(
                "prompt", "a prompt, messages, or a profile, which carries a default prompt; got none of them"
            )
        return [{"role": "user", "content": default}]
    text = prompt_text(prompt)
    if not text.strip():
        raise InvalidCallError("prompt", "a text that is not empty")
    return [{"role": "user", "content": storable("prompt", text)}]


def prompt_text(prompt: object) -> str:
    """Take the text of a prompt; in a chain or chord that is what earlier completions said."""
    if isinstance(prompt, str):
        return prompt
    if is_completion(prompt):
        return completion_text(prompt)
    if isinstance(prompt, list) and prompt and all(is_completion(part) for part in prompt):
        return "\n\n".join(completion_text(part) for part in prompt)
    raise InvalidCallError("prompt", f"a string, got {kind(prompt)}")


def is_completion(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Recognise what `complete` itself returns."""
    return (
        isinstance(value, Mapping) and value.get("object") == "chat.completion" and bool(value.get("choices"))
    )


def completion_text(completion: Mapping[str, Any]) -> str:
    """Take the text out of a chat.completion."""
    return completion["choices"][0]["message"].get("content") or ""


def checked_messages(messages: object) -> Messages:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidCallError("messages", f"a list of messages, got {kind(messages)}")
    if not messages:
        raise InvalidCallError("messages", "at least one message, got an empty list")
    return [checked_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def checked_message(where: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidCallError(where, f"a mapping with role and content, got {kind(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidCallError(
            f"{where}.role", f"one of {', '.join(ROLES)}, got {role!r}{closest(role, ROLES)}"
        )
    content = message.get("content")
    if isinstance(content, str):
        storable(f"{where}.content", content)
    elif not isinstance(content, Sequence) and not (content is None and message.get("tool_calls")):
        raise InvalidCallError(f"{where}.content", f"a string or a list of parts, got {kind(content)}")
    return dict(message)


def response_form(value: object) -> dict[str, Any] | None:
    """Check OpenAI's `response_format`."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or value.get("type") not in RESPONSE_TYPES:
        raise InvalidCallError("response_format", f"a mapping with type, one of {', '.join(RESPONSE_TYPES)}")
    if value["type"] == "json_schema":
        described = value.get("json_schema")
        if not isinstance(described, Mapping) or not isinstance(described.get("name"), str):
            raise InvalidCallError("response_format.json_schema", "a mapping with name and schema")
        from workers.expectations import check_schema  # noqa: PLC0415 - most callers need no validator

        check_schema("response_format.json_schema.schema", described.get("schema"))
    return dict(value)


def checked_tools(value: object) -> list[dict[str, Any]] | None:
    """Check OpenAI's `tools`."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise InvalidCallError("tools", f"a list of tools that is not empty, got {kind(value)}")
    for index, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidCallError(
                f"tools[{index}]", 'a mapping such as {"type": "function", "function": {"name": ...}}'
            )
    return [dict(tool) for tool in value]


def checked_choice(value: object, tools: object) -> str | dict[str, Any] | None:
    """Check OpenAI's `tool_choice`."""
    if value is None:
        return None
    if tools is None:
        raise InvalidCallError("tool_choice", "tools beside it, got none")
    if isinstance(value, Mapping):
        return dict(value)
    return one_of("tool_choice", value, TOOL_CHOICES)


def expectation(value: object, of_profile: Expect | None, form: Mapping[str, Any] | None) -> Expect | None:
    """Say what the answer must be: as the caller says, else the profile; and what it was to look like."""
    if value is not None:
        from workers.expectations import check_expect  # noqa: PLC0415 - most callers need no validator

        found = check_expect(value)
    else:
        found = of_profile
    if form is None or form["type"] == "text" or (found and found.json_schema is not None):
        return found
    schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else {"type": "object"}
    return (found or Expect()).model_copy(update={"json_schema": schema})


def stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, Sequence) or len(given) > MOST_STOPS:
        raise InvalidCallError("stop", f"a string or a list of at most {MOST_STOPS}, got {kind(value)}")
    for text in given:
        if not isinstance(text, str) or not text:
            raise InvalidCallError("stop", f"strings that are not empty, got {text!r}")
        storable("stop", text)
    return tuple(given)
