"""A gate with so many places, which can be shut for good."""

from threading import Condition


class Gate:
    """Lets so many threads in at once; the others wait until one leaves, or until it is shut."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.is_shut = False
        self.changed = Condition()

    def enter(self) -> bool:
        """Wait for a place and take it; False: the gate was shut."""
        with self.changed:
            self.changed.wait_for(lambda: self.free or self.is_shut)
            if self.is_shut:
                return False
            self.free -= 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self.changed:
            self.free += 1
            self.changed.notify()

    def shut(self) -> None:
        """Let nobody in any more; who is inside stays there."""
        with self.changed:
            self.is_shut = True
            self.changed.notify_all()
