"""Vectors that were computed, and the collections of texts that are searched by them."""

from alembic import op

revision = "0003"
down_revision = "0002"

UP = """
CREATE TABLE embeddings (
    model   text NOT NULL,
    hash    bytea NOT NULL,
    vector  vector NOT NULL,
    tokens  integer NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, hash),
    CONSTRAINT hash_is_sha256 CHECK (length(hash) = 32),
    CONSTRAINT tokens_are_not_negative CHECK (tokens >= 0)
);
COMMENT ON COLUMN embeddings.hash IS 'SHA-256 of what the model read: prefix and text';

CREATE TABLE collections (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    model      text NOT NULL,
    dimensions integer NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE passages (
    collection integer NOT NULL,
    hash       bytea NOT NULL,
    text       text,
    vector     halfvec NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, hash),
    CONSTRAINT passage_hash_is_sha256 CHECK (length(hash) = 32)
) PARTITION BY LIST (collection);
COMMENT ON COLUMN passages.hash IS 'SHA-256 of the text';
COMMENT ON COLUMN passages.text IS 'NULL where texts are not kept';
"""


def upgrade() -> None:
    """Go forward; there is no way back."""
    op.get_bind().exec_driver_sql(UP)
