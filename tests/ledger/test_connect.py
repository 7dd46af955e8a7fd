"""What a connection promises of the disk."""

from ledger.connect import Connection, commit_without_waiting, connect, flush

WRITTEN = "SELECT pg_current_wal_insert_lsn()"

IS_ON_DISK = "SELECT pg_current_wal_flush_lsn() >= %(written)s::pg_lsn"


def test_what_was_committed_without_waiting_is_on_disk_after_a_flush(db: Connection, db_url: str):
    """Messages leave Redis then; what a crash of Postgres took back would be nowhere."""
    db.execute("CREATE TABLE notes (note text)")
    with connect(db_url, name="test") as brain:
        commit_without_waiting(brain)
        for _ in range(20):  # the log is written by itself now and then
            brain.execute("INSERT INTO notes VALUES ('x')")
            (written,) = db.execute(WRITTEN).fetchone() or (None,)
            flush(brain)
            assert db.execute(IS_ON_DISK, {"written": written}).fetchone() == (True,)
