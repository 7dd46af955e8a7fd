"""What the ledger refuses.

LedgerError
└── NotLeadingError   this dispatcher is no longer the brain and may write nothing
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
