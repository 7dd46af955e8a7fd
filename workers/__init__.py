"""RUNS: the Celery app, the dispatcher, the engines.

`from workers import complete` is all that an agent needs. It costs what `import celery` costs: the
task itself, the catalog and Redis are reached for at the first call.
"""

from typing import TYPE_CHECKING

from celery.local import Proxy

__all__ = ["complete"]

if TYPE_CHECKING:
    from workers.tasks import complete
else:

    def find_complete() -> object:
        from workers.tasks import complete  # noqa: PLC0415 - this is what the proxy puts off

        return complete

    complete = Proxy(find_complete, name="complete")
