"""How often Python looks for objects that nobody needs and that hold each other."""

import gc

NEW_OBJECTS = 20_000


def collect_rarely() -> None:
    """Look after so many new objects; after 700, as Python does, takes an eighth of a busy process's time."""
    gc.set_threshold(NEW_OBJECTS)
