"""`python -m workers.cli`."""

from workers.cli import main

main(prog_name="fleet")
