"""DECIDES: pure functions from (task, catalog, vitals, now) to what to do. No I/O, no clock, no chance."""
