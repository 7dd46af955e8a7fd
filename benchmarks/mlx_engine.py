"""The MLX engine against what mlx-lm itself offers: one answer after the other, and its own server.

On MLX's CPU backend, with SmolLM2 135M in 32-bit floats. What a Mac's GPU does, this cannot say; see
"MLX on a Mac" in the documentation. The sides take turns, and one runs at a time.
"""

import argparse
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import openblas
from benchmarks.figures import Figure, report
from config.settings import settings

AT_ONCE = 8

CONTEXT_TOKENS = 2048

SYSTEM = "You answer in short and plain sentences, you never use lists, and you do not repeat the question. "

START_LIMIT_S = 120

QUESTION = "{} is what I think of. Tell me a long story about it and what became of it in the end."


def questions(round_number: int, count: int) -> list[str]:
    """Ask what was not asked before."""
    return [QUESTION.format(100 + 10 * round_number + number) for number in range(count)]


def rate(answer: Callable[[str], int], asked: Sequence[str], at_once: int) -> float:
    """Tell how many tokens a second come of questions."""
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as callers:
        tokens = sum(callers.map(answer, asked))
    return tokens / (time.monotonic() - began)


def messages_of(question: str) -> list[dict[str, str]]:
    """Make a conversation that shares no beginning with others, so that nobody can keep any of it computed.

    A system message of its own keeps the template from writing the one that all would share.
    """
    return [{"role": "system", "content": question[:3]}, {"role": "user", "content": question}]


def serial(folder: Path, max_tokens: int) -> Callable[[str], int]:
    """Answer with mlx-lm's `stream_generate`, in this thread."""
    from mlx_lm import load, stream_generate  # noqa: PLC0415 - after OpenBLAS

    model, tokenizer = load(str(folder))  # pyright: ignore[reportAssignmentType]

    def answer(question: str) -> int:
        prompt: Any = tokenizer.apply_chat_template(messages_of(question), add_generation_prompt=True)
        return list(stream_generate(model, tokenizer, prompt, max_tokens=max_tokens))[-1].generation_tokens

    return answer


@contextmanager
def server(folder: Path, max_tokens: int) -> Generator[Callable[[str], int]]:
    """Answer with mlx-lm's server, over HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.mlx_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--log-level", "ERROR", "--decode-concurrency", str(AT_ONCE)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def answer(question: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT_S)
        body = {"messages": messages_of(question), "max_tokens": max_tokens, "temperature": 0}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        said = json.loads(connection.getresponse().read())
        connection.close()
        return int(said["usage"]["completion_tokens"])

    try:
        wait_for(port, process)
        yield answer
    finally:
        process.kill()
        process.wait()


def ignore(_piece: str) -> None:
    """Show nothing."""


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    message = "mlx_lm.server did not start"
    raise TimeoutError(message)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends too
    rounds, alone_questions, repeats = (1, 1, 16) if quick else (3, 3, 24)
    max_tokens = 32
    blas = openblas.put_in_front()

    from tests.mlx_models import smollm2  # noqa: PLC0415 - after OpenBLAS
    from workers.engines.base import Request  # noqa: PLC0415 - after OpenBLAS
    from workers.engines.mlx import MlxEngine  # noqa: PLC0415 - after OpenBLAS

    folder = smollm2.make(settings().models / "smollm2-mlx-f32")
    engine = MlxEngine("smollm2", folder, context_tokens=CONTEXT_TOKENS, slots=AT_ONCE)

    def ours(question: str) -> int:
        request = Request(messages_of(question), max_tokens=max_tokens, temperature=0.0)
        return engine.generate(request, on_token=ignore, cancelled=lambda: False).completion_tokens

    def first_token_s(system: str) -> float:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello."}]
        request = Request(messages, max_tokens=1, temperature=0.0)
        return engine.generate(request, on_token=ignore, cancelled=lambda: False).first_token_s or 0.0

    found: dict[str, list[float]] = {"serial": [], "server": [], "engine": [], "new": [], "kept": []}
    one = serial(folder, max_tokens)
    with server(folder, max_tokens) as theirs:
        for warm_up in (one, theirs, ours):
            warm_up("Hello.")
        for number in range(rounds):
            found["serial"].append(rate(one, questions(3 * number, alone_questions), 1))
            found["server"].append(rate(theirs, questions(3 * number + 1, AT_ONCE), AT_ONCE))
            found["engine"].append(rate(ours, questions(3 * number + 2, AT_ONCE), AT_ONCE))
            system = f"{number}. {SYSTEM * repeats}"
            found["new"].append(first_token_s(system))
            found["kept"].append(first_token_s(system))
    engine.close()
    alone, theirs_at_once, ours_at_once, new, kept = (statistics.median(each) for each in found.values())
    report(
        f"SmolLM2 135M on MLX's CPU backend; {rounds} x {AT_ONCE} answers of {max_tokens} tokens",
        [
            ("BLAS", blas),
            ("stream_generate, one after the other", f"{alone:.1f} tokens/s"),
            (f"mlx_lm.server, {AT_ONCE} at once", f"{theirs_at_once:.1f} tokens/s"),
            (f"engine, {AT_ONCE} at once", f"{ours_at_once:.1f} tokens/s"),
            ("first token, system prompt new", f"{new:.2f} s"),
            ("first token, system prompt kept", f"{kept:.2f} s"),
        ],
        [
            Figure("mlx_engine.concurrent8_vs_serial", ours_at_once / alone, 3.5, "x"),
            Figure("mlx_engine.concurrent8_vs_server", ours_at_once / theirs_at_once, 1.0, "x"),
            Figure("mlx_engine.first_token_kept_vs_new", kept / new, 0.3, "x", is_ceiling=True),
        ],
    )


if __name__ == "__main__":
    main()
