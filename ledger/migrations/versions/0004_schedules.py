"""Recurring tasks: what of each was decided until when, and each firing with its outcome and delivery."""

from alembic import op

revision = "0004"
down_revision = "0003"

UP = """
CREATE TABLE schedules (
    name          text PRIMARY KEY,
    rhythm        text NOT NULL,
    decided_until timestamptz NOT NULL,
    next_at       timestamptz,
    failures      integer NOT NULL DEFAULT 0,
    paused_at     timestamptz,
    paused_why    text,
    CONSTRAINT paused_has_reason CHECK ((paused_at IS NULL) = (paused_why IS NULL))
);
COMMENT ON COLUMN schedules.next_at IS 'when the next run begins; NULL: it is not scheduled any more';
COMMENT ON COLUMN schedules.decided_until IS 'what was scheduled until then has fired, or never will';
COMMENT ON COLUMN schedules.failures IS 'failed runs in a row';

CREATE TABLE firings (
    name           text NOT NULL REFERENCES schedules,
    scheduled_at   timestamptz NOT NULL,
    worker         text NOT NULL DEFAULT '',
    task_id        uuid NOT NULL,
    is_by_hand     boolean NOT NULL DEFAULT false,
    decided_at     timestamptz NOT NULL,
    sent_to        text,
    expires_at     timestamptz,
    outcome        text,
    why            text,
    finished_at    timestamptz,
    delivery       text,
    delivery_tries integer NOT NULL DEFAULT 0,
    deliver_at     timestamptz,
    delivery_why   text,
    PRIMARY KEY (name, scheduled_at, worker),
    CONSTRAINT firing_outcome_is_known
        CHECK (outcome IN ('succeeded', 'failed', 'expired', 'cancelled', 'skipped', 'refused')),
    CONSTRAINT firing_finished_has_outcome CHECK ((finished_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT sent_firing_expires CHECK ((sent_to IS NULL) = (expires_at IS NULL)),
    CONSTRAINT delivery_is_known CHECK (delivery IN ('pending', 'delivered', 'failed')),
    CONSTRAINT pending_delivery_has_time CHECK (delivery IS DISTINCT FROM 'pending' OR deliver_at IS NOT NULL)
);
COMMENT ON COLUMN firings.worker IS 'the only worker that may run it; empty: any';
COMMENT ON COLUMN firings.sent_to IS 'the mark of the Redis with the message; once emptied, it has another';
CREATE INDEX firings_open ON firings (name, scheduled_at) WHERE outcome IS NULL;
CREATE INDEX firings_to_deliver ON firings (deliver_at) WHERE delivery = 'pending';
CREATE INDEX heartbeats ON firings (worker, finished_at) WHERE worker <> '' AND outcome = 'succeeded';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.get_bind().exec_driver_sql(UP)
