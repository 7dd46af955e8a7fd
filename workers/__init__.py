"""RUNS: the Celery app, the dispatcher, the engines.

`from workers import complete, embed, similar, stream` is all that an agent needs. It costs what `import
celery` costs: the tasks themselves, the catalog and Redis are reached for at the first call.
"""

from typing import TYPE_CHECKING

from celery.local import Proxy

__all__ = ["complete", "embed", "similar", "stream"]

if TYPE_CHECKING:
    from workers.streaming import stream
    from workers.tasks import complete, embed, similar
else:

    def find(name: str) -> object:
        from workers import tasks  # noqa: PLC0415 - this is what the proxies put off

        return getattr(tasks, name)

    def find_stream() -> object:
        from workers.streaming import stream  # noqa: PLC0415 - as above

        return stream

    complete, embed, similar = (Proxy(find, (name,), name=name) for name in ("complete", "embed", "similar"))
    stream = Proxy(find_stream, name="stream")
