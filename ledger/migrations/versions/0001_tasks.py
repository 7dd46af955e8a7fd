"""Tasks, their attempts, the workers that run them, and who leads."""

from alembic import op

revision = "0001"
down_revision = None

UP = """
CREATE TABLE tasks (
    id           uuid PRIMARY KEY,
    state        text NOT NULL,
    profile      text,
    focus        text,
    model        text,
    agent        text NOT NULL,
    priority     smallint NOT NULL,
    not_before   timestamptz,
    deadline     timestamptz,
    needs        jsonb NOT NULL,
    metadata     jsonb,
    request      jsonb,
    envelope     jsonb NOT NULL,
    attempts     smallint NOT NULL DEFAULT 0,
    accepted_at  timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    error        jsonb,
    text_removed_at timestamptz,
    CONSTRAINT task_state_is_known
        CHECK (state IN ('held', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT final_task_has_finished_at
        CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT failed_task_has_error
        CHECK ((state = 'failed') = (error IS NOT NULL)),
    CONSTRAINT priority_is_a_digit
        CHECK (priority BETWEEN 0 AND 9)
) WITH (fillfactor = 60);
COMMENT ON COLUMN tasks.model IS 'what the caller named; the attempts tell what ran';
COMMENT ON COLUMN tasks.priority IS '0 runs first, 9 last, as Celery has it on Redis';
COMMENT ON COLUMN tasks.needs IS 'what a plan looks at: token estimate, max_tokens, capabilities';
COMMENT ON COLUMN tasks.metadata IS 'what the caller wants to find again; nothing here reads it';
COMMENT ON COLUMN tasks.request IS 'messages and sampling; NULL once retention has removed the text';
COMMENT ON COLUMN tasks.envelope IS 'what Celery attached to the message: headers and embed';
-- Keyed as the tables are, so that whichever index the planner takes, a row is found by its key. Not on
-- the state: a task that is queued or claimed then changes in place, and no index with it.
CREATE INDEX tasks_open ON tasks (id) WHERE finished_at IS NULL;
CREATE INDEX tasks_with_text ON tasks (coalesce(profile, ''), finished_at)
    WHERE finished_at IS NOT NULL AND text_removed_at IS NULL;
CREATE INDEX tasks_by_acceptance ON tasks (accepted_at);

CREATE TABLE attempts (
    task_id           uuid NOT NULL REFERENCES tasks,
    number            smallint NOT NULL,
    profile           text,
    agent             text NOT NULL,
    model             text NOT NULL,
    tier              text NOT NULL,
    queue             text NOT NULL,
    epoch             bigint NOT NULL,
    passed_over       jsonb NOT NULL,
    reserved_usd      numeric(18,9) NOT NULL,
    reserved_tokens   integer NOT NULL,
    queued_at         timestamptz NOT NULL DEFAULT now(),
    worker            text,
    claimed_at        timestamptz,
    lease_until       timestamptz,
    finished_at       timestamptz,
    outcome           text,
    prompt_tokens     integer,
    cached_tokens     integer,
    completion_tokens integer,
    tokens_are_estimated boolean NOT NULL DEFAULT false,
    cost_usd          numeric(18,9),
    first_token_s     real,
    error             jsonb,
    answer            jsonb,
    PRIMARY KEY (task_id, number, queued_at),
    CONSTRAINT tier_is_known CHECK (tier IN ('local', 'free', 'paid')),
    CONSTRAINT outcome_is_known
        CHECK (outcome IN ('succeeded', 'failed', 'rejected', 'lost', 'cancelled')),
    CONSTRAINT finished_has_outcome CHECK ((finished_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT claimed_has_worker_and_lease
        CHECK ((claimed_at IS NULL) = (worker IS NULL) AND (claimed_at IS NULL) = (lease_until IS NULL)),
    CONSTRAINT succeeded_has_tokens
        CHECK (outcome <> 'succeeded' OR (prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL)),
    CONSTRAINT tokens_and_money_are_not_negative
        CHECK (prompt_tokens >= 0 AND cached_tokens >= 0 AND completion_tokens >= 0
               AND cost_usd >= 0 AND reserved_usd >= 0 AND reserved_tokens >= 0)
) PARTITION BY RANGE (queued_at);
CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;
COMMENT ON COLUMN attempts.passed_over IS '[[model, objection], ...]: why not each one before';
COMMENT ON COLUMN attempts.cost_usd IS 'NULL: the price is unknown; 0: free';
COMMENT ON COLUMN attempts.answer IS '{"message": ..., "finish_reason": ...}; NULL once the text is removed';
CREATE INDEX attempts_open ON attempts (task_id, number) WHERE outcome IS NULL;
CREATE INDEX attempts_by_finish ON attempts (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE workers (
    name       text PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    slots      jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN workers.slots IS '{queue: attempts it can run at once}';

CREATE TABLE leadership (
    one         boolean PRIMARY KEY DEFAULT true,
    epoch       bigint NOT NULL,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL,
    CONSTRAINT only_one_row CHECK (one)
);
INSERT INTO leadership (epoch, holder, lease_until) VALUES (0, 'nobody', '-infinity');
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.get_bind().exec_driver_sql(UP)
