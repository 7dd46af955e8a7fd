"""Runs the provider in a process of its own: `python -m tests.provider PORT DELAY_S`."""

import signal
import sys

from tests.provider.server import Provider


def main() -> None:
    """Serve until SIGTERM."""
    port, delay_s = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Provider("openai", port=port, delay_s=delay_s):
        signal.pause()


if __name__ == "__main__":
    main()
