"""An OpenAI-compatible provider on this machine, which misbehaves on command and keeps exact books."""

from tests.provider.books import Books, Served
from tests.provider.faults import FAULTS, Fault
from tests.provider.server import Provider

__all__ = ["FAULTS", "Books", "Fault", "Provider", "Served"]
