"""One script for each published number: `python -m benchmarks.NAME [--quick]`."""
