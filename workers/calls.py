"""The tasks that agents call, each with the check of its arguments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.catalog import Catalog
from workers.call import Call, check_arguments
from workers.embed_call import EmbedCall, check_embed_arguments, check_similar_arguments

AnyCall = Call | EmbedCall

CHECKS: Mapping[str, Callable[[Catalog, Sequence[Any], Mapping[str, Any]], AnyCall]] = {
    "complete": check_arguments,
    "embed": check_embed_arguments,
    "similar": check_similar_arguments,
}


def check(task: str, catalog: Catalog, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AnyCall:
    """Check what a task was called with.

    Raises:
        InvalidCallError: an argument is unknown, or is not what it should be.
        UnknownNameError: a profile, focus or model is not in the catalog.
    """
    return CHECKS[task](catalog, args, kwargs)
