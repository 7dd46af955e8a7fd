"""What the ledger refuses.

LedgerError
├── NotLeadingError   this dispatcher is no longer the brain and may write nothing
├── NoVectorsError    this Postgres has no pgvector, or one that is too old
└── LedgerBusyError   somebody holds a table that a migration changes
"""


class LedgerError(Exception):
    """The ledger did not do what was asked."""


class NotLeadingError(LedgerError):
    """This dispatcher is no longer the brain: another one leads with a later epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"epoch {self.epoch} has ended: another dispatcher leads; nothing was written"


class NoVectorsError(LedgerError):
    """This Postgres has no pgvector, or one that is too old, so the ledger cannot be made in it."""

    def __init__(self, why: str, what_to_do: str) -> None:
        super().__init__(why, what_to_do)
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"the ledger needs the extension pgvector, and {self.why}; {self.what_to_do}"


class LedgerBusyError(LedgerError):
    """Somebody holds a table for so long that a migration cannot change it."""

    def __init__(self, tried_s: float) -> None:
        super().__init__(tried_s)
        self.tried_s = tried_s

    def __str__(self) -> str:
        return (
            f"a table of the ledger was held by somebody else for {self.tried_s:.0f} s; "
            "end long reports or backups (pg_stat_activity shows them), then run `fleet db migrate` again"
        )
