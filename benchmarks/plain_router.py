"""The peer: litellm's own Router in threads, with nothing durable, at the URL that is its argument."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from config.settings import quiet_litellm

quiet_litellm()

from litellm.router import Router  # noqa: E402 - after its settings

THREADS = 16
PROMPT = "one two three four five six seven eight"


def main() -> None:
    """Make as many calls as each line of the input says, and tell how many a second of CPU is enough for."""
    made = {"model": "openai/up", "api_base": sys.argv[1], "api_key": "made-up"}
    router = Router(model_list=[{"model_name": "m", "litellm_params": made}])
    messages: Any = [{"role": "user", "content": PROMPT}]

    def ask(is_streamed: bool) -> str:  # noqa: FBT001 - as `map` calls it
        answer: Any = router.completion(model="m", messages=messages, stream=is_streamed)
        if is_streamed:
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        return answer.choices[0].message.content

    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            calls, how = line.split()
            cpu = time.process_time()
            answers = list(pool.map(ask, [how == "streamed"] * int(calls)))
            cpu = time.process_time() - cpu
            if answers != [PROMPT] * int(calls):
                message = "the router gave another answer than the provider"
                raise AssertionError(message)
            print(int(calls) / cpu, flush=True)


if __name__ == "__main__":
    main()
