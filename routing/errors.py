"""What routing refuses.

RoutingError
├── NoModelError      no model may run the task, now or later
│   └── BudgetSpentError  a budget that rejects is spent
└── ExpiredError      the task's deadline passed before a model could begin
"""

from collections.abc import Sequence
from datetime import datetime

from routing.objection import PassedOver


class RoutingError(Exception):
    """A task that no model will run."""


class NoModelError(RoutingError):
    """Every model that the task allows was passed over, and none will be ready later."""

    def __init__(self, profile: str | None, passed_over: Sequence[Sequence[str]]) -> None:
        super().__init__(profile, [list(pair) for pair in passed_over])
        self.profile = profile
        self.passed_over = [tuple(pair) for pair in passed_over]

    def __str__(self) -> str:
        what = "the task" if self.profile is None else f"profile {self.profile!r}"
        tried = "; ".join(f"{model}: {why}" for model, why in self.passed_over)
        return (
            f"{what} has no model that can answer ({tried}); "
            "name another model, or give the profile a fallback in config/profiles.yaml"
        )


class BudgetSpentError(NoModelError):
    """A budget whose `on_spent` is `reject` has too little left."""

    def __str__(self) -> str:
        model, why = self.passed_over[-1]
        return f"{model} would take the task, but {why}; raise the budget in config/profiles.yaml, or wait"


class ExpiredError(RoutingError):
    """The task's deadline passed before a model could begin; nothing was spent."""

    def __init__(self, deadline: datetime | str, passed_over: Sequence[Sequence[str]]) -> None:
        self.deadline = deadline if isinstance(deadline, str) else deadline.isoformat()
        super().__init__(self.deadline, [list(pair) for pair in passed_over])
        self.passed_over = [tuple(pair) for pair in passed_over]

    def __str__(self) -> str:
        waited_for = "; ".join(f"{model}: {why}" for model, why in self.passed_over) or "its turn"
        return (
            f"the deadline {self.deadline} passed while the task waited ({waited_for}); nothing was spent; "
            "give it a later `expires`, or start a worker that can take it"
        )


def refusal(profile: str | None, passed_over: PassedOver) -> NoModelError:
    """Make the error of a task that was refused."""
    kind = BudgetSpentError if passed_over and passed_over[-1][1].ends_plan else NoModelError
    return kind(profile, [(model, objection.why) for model, objection in passed_over])
