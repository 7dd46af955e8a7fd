"""What a connection promises of the disk."""

from psycopg import sql

from ledger.connect import Connection, connect

WRITTEN = "SELECT pg_current_wal_insert_lsn()"

IS_ON_DISK = "SELECT pg_current_wal_flush_lsn() >= %(written)s::pg_lsn"


def test_what_is_committed_is_on_disk_whatever_the_server_does_by_default(db: Connection, db_url: str):
    """Messages leave Redis then; what a crash of Postgres took back would be nowhere."""
    db.execute("CREATE TABLE notes (note text)")
    of_database = sql.SQL("ALTER DATABASE {} SET synchronous_commit = off")
    db.execute(of_database.format(sql.Identifier(db.info.dbname)))
    with connect(db_url, name="test", by_key=True) as brain:
        for _ in range(20):  # the log is written by itself now and then
            with brain.transaction():
                brain.execute("INSERT INTO notes VALUES ('x')")
                (written,) = brain.execute(WRITTEN).fetchone() or (None,)
            assert db.execute(IS_ON_DISK, {"written": written}).fetchone() == (True,)
