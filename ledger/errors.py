"""What the ledger refuses.

LedgerError
├── NotLeadingError   this dispatcher is no longer the brain and may write nothing
└── NoVectorsError    this Postgres has no pgvector, or one that is too old
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
