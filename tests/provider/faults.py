"""The ways in which a provider misbehaves; each is given the call, and does what it likes with it."""

import asyncio
import inspect
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.provider.server import Call

Fault = Callable[["Call"], Awaitable[None]]

FOR_EVER_S = 3600.0

CUT_AFTER = 2
"""Words."""


async def rate_limited(call: "Call") -> None:
    """Say 429, and when it ends."""
    await call.refuse(call.dialect.slow_down(after_s=2))


async def rate_limited_by_reset(call: "Call") -> None:
    """Say 429 with a reset in the body alone, as some gateways pass it on."""
    status, _, body = call.dialect.slow_down(after_s=2)
    await call.refuse((status, {}, body))


async def rate_limited_without_a_word(call: "Call") -> None:
    await call.refuse(call.dialect.slow_down(after_s=None))


async def rate_limited_upstream(call: "Call") -> None:
    """Say 429 for one model: whoever runs it for the provider is at its limit."""
    raw = f"{call.served.model} is temporarily rate-limited upstream. Please retry shortly"
    metadata = {"raw": raw, "provider_name": "Somebody"}
    await call.refuse((429, {}, call.dialect.error(429, "Provider returned error", metadata=metadata)))


async def day_spent(call: "Call") -> None:
    await call.refuse(call.dialect.slow_down(after_s=5 * 3600, window="per-day"))


async def no_money(call: "Call") -> None:
    await call.refuse(call.dialect.no_money())


async def no_model(call: "Call") -> None:
    await call.refuse(call.dialect.no_model(call.served.model))


async def wrong_key(call: "Call") -> None:
    await call.refuse(call.dialect.wrong_key())


async def broken(call: "Call") -> None:
    await call.refuse((500, {"Content-Type": "text/html"}, b"<html>Internal Server Error</html>"))


async def unavailable(call: "Call") -> None:
    await call.refuse(
        (503, {}, call.dialect.error(503, "Service unavailable", code="engine_overloaded_error"))
    )


async def reset(call: "Call") -> None:
    """Reset before the headers."""
    call.reset()


async def long_refusal(call: "Call") -> None:
    """Say 429, and go on talking."""
    status, headers, body = call.dialect.slow_down(after_s=2)
    await call.refuse((status, headers, body + b" " * 3_000_000))


async def nested(call: "Call") -> None:
    """Send JSON whose brackets do not end for long."""
    await call.event(f'{{"choices": [{{"delta": {{"logprobs": {"[" * 500}{"]" * 500}}}}}]}}')
    await call.finish()


async def very_nested(call: "Call") -> None:
    await call.event("[" * 100_000)
    await call.finish()


async def silent(call: "Call") -> None:
    """Take the request and never answer."""
    await asyncio.sleep(FOR_EVER_S)


async def only_comments(call: "Call") -> None:
    """Keep the connection alive without a token, as OpenRouter does while it waits."""
    await call.open()
    while True:
        await call.send(b": OPENROUTER PROCESSING\n\n")
        await asyncio.sleep(0.05)


async def late(call: "Call") -> None:
    """Send the first token after 20 s."""
    await call.open()
    await asyncio.sleep(20)
    await call.answer()


async def cut(call: "Call") -> None:
    """End the stream in the middle, politely."""
    await call.speak(CUT_AFTER)
    call.charge()
    await call.close_stream()


async def cut_hard(call: "Call") -> None:
    """Reset in the middle."""
    await call.speak(CUT_AFTER)
    call.charge()
    call.reset()


async def cut_but_done(call: "Call") -> None:
    """Say [DONE] in the middle, with no reason why."""
    await call.speak(CUT_AFTER)
    call.charge()
    await call.event("[DONE]")
    await call.close_stream()


async def stall(call: "Call") -> None:
    """Fall silent in the middle."""
    await call.speak(CUT_AFTER)
    call.charge()
    await asyncio.sleep(FOR_EVER_S)


async def malformed(call: "Call") -> None:
    await call.speak(CUT_AFTER)
    await call.event('{"choices": [{"delta": {"content": "wor')
    await call.finish()


async def no_done(call: "Call") -> None:
    """Leave out the [DONE]; the reason why it ended was said."""
    await call.speak()
    await call.finish(done=False)


async def no_usage(call: "Call") -> None:
    await call.speak()
    await call.finish(usage=False)


async def error_with_200(call: "Call") -> None:
    """Say 200, and that it went wrong."""
    _, _, body = call.dialect.slow_down(after_s=2)
    await call.refuse((200, {}, body))


async def error_in_the_stream(call: "Call") -> None:
    """Go wrong after the first words."""
    await call.speak(CUT_AFTER)
    call.charge()
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    error = {"code": 502, "message": "Provider disconnected"}
    await call.event({**call.frame, "error": error, "choices": [choice]})
    await call.close_stream()


async def too_long(call: "Call") -> None:
    await call.refuse(call.dialect.too_long(5000, 4096))


async def fixed_temperature(call: "Call") -> None:
    """Refuse a temperature, as Moonshot's kimi-k2.6 does."""
    text = "invalid temperature: only 1 is allowed for this model"
    await call.refuse((400, {}, call.dialect.error(400, text)))


async def no_tools(call: "Call") -> None:
    await call.refuse((404, {}, call.dialect.error(404, "No endpoints found that support tool use.")))


async def refused_content(call: "Call") -> None:
    await call.refuse(call.dialect.refused_content(call.prompt))


async def filtered(call: "Call") -> None:
    """Break the answer off because of its content."""
    await call.speak(CUT_AFTER)
    await call.finish(reason="content_filter")


async def web_page(call: "Call") -> None:
    """Answer with a page, as a hotel's network does."""
    await call.refuse((200, {"Content-Type": "text/html"}, b"<!doctype html><p>Please log in</p>"))


async def unlabelled(call: "Call") -> None:
    """Send a good stream under a wrong content type."""
    await call.open("application/octet-stream")
    await call.answer()


async def whole(call: "Call") -> None:
    """Answer in one piece although a stream was asked for."""
    await call.in_one_piece()


async def zipped(call: "Call") -> None:
    call.zipped = zlib.compressobj(wbits=31)
    await call.answer()


async def drip(call: "Call") -> None:
    """Send an answer byte by byte, without an end."""
    await call.open()
    frame = json.dumps({**call.frame, "choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})
    for byte in f"data: {frame}\n\n".encode():
        await call.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def huge(call: "Call") -> None:
    """Answer with 10 MB."""
    await call.delta({"role": "assistant", "content": ""})
    piece = "0123456789abcde\n" * 4096
    for _ in range(160):
        await call.delta({"content": piece})
        call.served.completion_tokens += 1
    await call.finish()


async def tools(call: "Call") -> None:
    """Call two tools, in pieces, and think aloud before."""
    await call.delta({"role": "assistant", "content": None, "reasoning": "Let me "})
    await call.delta({"reasoning": "look."})
    for index, name in enumerate(("weather", "time")):
        function = {"name": name, "arguments": ""}
        await call.delta(
            {
                "tool_calls": [
                    {"index": index, "id": f"call_{index}", "type": "function", "function": function}
                ]
            }
        )
        for piece in ('{"city":', ' "Paris"}'):
            await call.delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    call.served.completion_tokens = 6
    await call.finish(reason="tool_calls")


async def with_logprobs(call: "Call") -> None:
    for word in call.words:
        entry = {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []}
        await call.delta({"content": word}, logprobs={"content": [entry], "refusal": None})
        call.served.completion_tokens += 1
    await call.finish()


FAULTS: dict[str, Fault] = {
    name: value for name, value in list(globals().items()) if inspect.iscoroutinefunction(value)
}
