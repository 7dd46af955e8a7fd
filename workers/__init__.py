"""RUNS: the Celery app, the dispatcher, the engines.

`from workers import complete, stream` is all that an agent needs. It costs what `import celery` costs: the
task itself, the catalog and Redis are reached for at the first call.
"""

from typing import TYPE_CHECKING

from celery.local import Proxy

__all__ = ["complete", "stream"]

if TYPE_CHECKING:
    from workers.streaming import stream
    from workers.tasks import complete
else:

    def find_complete() -> object:
        from workers.tasks import complete  # noqa: PLC0415 - this is what the proxy puts off

        return complete

    def find_stream() -> object:
        from workers.streaming import stream  # noqa: PLC0415 - as above

        return stream

    complete = Proxy(find_complete, name="complete")
    stream = Proxy(find_stream, name="stream")
