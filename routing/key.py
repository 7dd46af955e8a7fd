"""What names an attempt, here as in the ledger."""

from uuid import UUID

Key = tuple[UUID, int]
"""(task id, number of the attempt)"""
