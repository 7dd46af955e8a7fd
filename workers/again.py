"""Running a task again: the same question, as a new task."""

from uuid import UUID

from ledger import browse, usage
from ledger.connect import Connection
from workers.errors import TextRemovedError, UnknownTaskError

ASKED = ("messages", "max_tokens", "temperature", "top_p", "stop", "seed")

SPECIAL = ("response_format", "tools", "tool_choice", "expect")
"""What only some requests have."""


def run_again(db: Connection, task_id: UUID) -> UUID:
    """Enqueue what a task asked once more; its deadline and its time are not repeated.

    Returns:
        The id of the new task.

    Raises:
        UnknownTaskError: there is no such task.
        TextRemovedError: what it asked is no longer kept.
        UnknownNameError: its profile, focus or model is no longer in the catalog.
        RedisUnreachableError: there is no Redis to enqueue it in.
    """
    task = usage.task(db, task_id)
    if task is None:
        raise UnknownTaskError(str(task_id), "is no task in the ledger", "look for it among the tasks")
    request = browse.texts(db, task_id).request
    if request is None:
        raise TextRemovedError(str(task_id), task.state)
    from workers.tasks import complete  # noqa: PLC0415 - loads the app only where there is something to send

    arguments = {
        **{name: request[name] for name in ASKED},
        **{name: request[name] for name in SPECIAL if name in request},
        "profile": task.profile,
        "focus": task.focus,
        "model": task.model,
        "agent": task.agent,
        "metadata": task.metadata,
        "patience": task.needs.get("patience_s"),
        "max_tier": task.needs.get("max_tier"),
        "max_cost_usd": task.needs.get("max_cost_usd"),
        "priority": task.priority,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return UUID(complete.apply_async((), given).id)
