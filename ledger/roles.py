"""Roles with fewer rights than the owner of the ledger has: for workers' hosts, and for who only reads.

The owner (dispatchers, beat, migrations) is not bound by the policies: Postgres asks them of others only.
"""

from ledger.connect import Connection

WORKER = "fleet_worker"

READER = "fleet_reader"

POLICY = "a_worker_sees_what_is_open"

GIVE_UP = "SET LOCAL lock_timeout = '5s'"
"""The whole fleet waits behind whoever waits for these locks."""

MAKE = """
    DO $$
    DECLARE
        role text;
    BEGIN
        FOREACH role IN ARRAY ARRAY['fleet_worker', 'fleet_reader'] LOOP
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            END IF;
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', role);
        END LOOP;
    END $$;
"""

READ = """
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO fleet_reader;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO fleet_reader;
"""

WORK = """
    GRANT SELECT (id, state, profile, agent, request, accepted_at, finished_at, deadline, attempts),
          UPDATE (state, finished_at, error)
       ON tasks TO fleet_worker;
    GRANT SELECT (task_id, number, profile, agent, model, tier, queue, epoch, reserved_usd, reserved_tokens,
                  queued_at, worker, claimed_at, lease_until, finished_at, outcome, prompt_tokens,
                  cached_tokens, completion_tokens, tokens_are_estimated, cost_usd, first_token_s),
          UPDATE (worker, claimed_at, lease_until, finished_at, outcome, prompt_tokens, cached_tokens,
                  completion_tokens, tokens_are_estimated, cost_usd, first_token_s, error, answer)
       ON attempts TO fleet_worker;
    GRANT INSERT ON spend_changes TO fleet_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO fleet_worker;
    GRANT SELECT, INSERT, UPDATE ON accounts TO fleet_worker;
    GRANT SELECT, INSERT ON embeddings TO fleet_worker;
    GRANT SELECT ON leadership, schedules, alembic_version TO fleet_worker;
    GRANT SELECT (name, scheduled_at, worker, task_id, is_by_hand, decided_at, sent_to, expires_at, outcome,
                  finished_at)
       ON firings TO fleet_worker;
"""
"""Of `attempts` a worker writes the answer and the words of the error, and reads neither."""

POLICIES = """
    ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS a_worker_sees_what_is_open ON tasks;
    CREATE POLICY a_worker_sees_what_is_open ON tasks TO fleet_worker
        -- What it ends itself is written by the statement that may no longer see it afterwards.
        USING (finished_at IS NULL OR finished_at > statement_timestamp() - interval '1 second');
    DROP POLICY IF EXISTS others_see_all ON tasks;
    CREATE POLICY others_see_all ON tasks USING (NOT pg_has_role('fleet_worker', 'MEMBER'));
"""

HAS_ROLES = "SELECT EXISTS (SELECT FROM pg_policies WHERE policyname = %(policy)s)"


def make(db: Connection) -> None:
    """Make the roles and give each its rights; may be run again, and only by the owner of the tables."""
    with db.transaction():
        db.execute(GIVE_UP)
        for statements in (MAKE, READ, WORK, POLICIES):
            db.execute(statements)


def has(db: Connection) -> bool:
    """Tell whether this database gives the roles their rights."""
    row = db.execute(HAS_ROLES, {"policy": POLICY}).fetchone()
    return bool(row and row[0])
