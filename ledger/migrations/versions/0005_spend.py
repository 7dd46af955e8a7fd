"""What the attempts used, added up by hour and by day; and how long the brain's ticks take."""

from alembic import op

revision = "0005"
down_revision = "0004"

UP = """
CREATE TABLE spend_by_hour (
    at                timestamptz NOT NULL,
    month             date NOT NULL,
    profile           text,
    agent             text NOT NULL,
    model             text NOT NULL,
    tier              text NOT NULL,
    outcome           text NOT NULL,
    attempts          bigint NOT NULL,
    calls             bigint NOT NULL,
    unpriced          bigint NOT NULL,
    cost_usd          numeric(18,9) NOT NULL,
    prompt_tokens     bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    budget_usd        numeric(18,9) NOT NULL,
    budget_tokens     bigint NOT NULL,
    wait_ms           bigint NOT NULL,
    run_ms            bigint NOT NULL
);
COMMENT ON COLUMN spend_by_hour.at IS 'the beginning of the hour or day, UTC';
COMMENT ON COLUMN spend_by_hour.month IS 'of queued_at: the partition that the attempts are in';
COMMENT ON COLUMN spend_by_hour.unpriced IS 'attempts of unknown price: not in cost_usd';
CREATE TABLE spend_changes (LIKE spend_by_hour INCLUDING COMMENTS);
CREATE TABLE spend_by_day (LIKE spend_by_hour INCLUDING COMMENTS);
CREATE UNIQUE INDEX spend_of_an_hour
    ON spend_by_hour (at, month, coalesce(profile, ''), agent, model, tier, outcome);
CREATE UNIQUE INDEX spend_of_a_day
    ON spend_by_day (at, month, coalesce(profile, ''), agent, model, tier, outcome);
CREATE VIEW spend AS SELECT * FROM spend_by_hour UNION ALL SELECT * FROM spend_changes;
"""

ADD_UP = """
INSERT INTO spend_changes
SELECT date_trunc('hour', finished_at, 'UTC'), date_trunc('month', queued_at AT TIME ZONE 'UTC')::date,
       profile, agent, model, tier, outcome,
       count(*), count(claimed_at), count(*) - count(cost_usd), coalesce(sum(cost_usd), 0),
       coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0),
       coalesce(sum(coalesce(cost_usd, reserved_usd)) FILTER (WHERE claimed_at IS NOT NULL), 0),
       coalesce(sum(coalesce(prompt_tokens + completion_tokens, reserved_tokens))
                    FILTER (WHERE claimed_at IS NOT NULL), 0),
       coalesce(sum(round(extract(epoch FROM claimed_at - queued_at) * 1000)), 0),
       coalesce(sum(round(extract(epoch FROM finished_at - claimed_at) * 1000)), 0)
  FROM attempts
 WHERE outcome IS NOT NULL
 GROUP BY 1, 2, 3, 4, 5, 6, 7
"""

# At the end, because the brain waits for this lock, and adding up takes a while.
TICKS_UP = """
ALTER TABLE leadership
    ADD COLUMN ticks bigint NOT NULL DEFAULT 0,
    ADD COLUMN tick_s double precision NOT NULL DEFAULT 0;
COMMENT ON COLUMN leadership.tick_s IS 'seconds that all ticks took together';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    for statement in (UP, ADD_UP, TICKS_UP):
        op.get_bind().exec_driver_sql(statement)
