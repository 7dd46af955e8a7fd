"""The deciding half of the brain, without its body: the tasks that wait, the picture, and what follows.

The dispatcher feeds it from the ledger, `fleet replay` from a trace with a clock of its own: both decide
by the same code.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from config.catalog import Catalog
from config.errors import UnknownNameError
from routing.backlog import Backlog
from routing.candidates import Candidates
from routing.objection import Objection
from routing.plan import Plan, Refuse, Run, Wait, output_tokens, plan, suiting, under_way
from routing.task import DEFAULT_PATIENCE_S, Needs, Task, patience_end
from routing.vitals import Vitals


class Scheduler:
    """Decides which task runs where, and when."""

    def __init__(self, catalog: Catalog, vitals: Vitals | None = None) -> None:
        self.catalog = catalog
        self.vitals = vitals or Vitals(catalog)
        self.backlog = Backlog()
        self.candidates = Candidates(catalog)
        self.look_again_at: datetime | None = None
        """When an objection ends by itself that a task waits for."""

    def add(self, task: Task, patience_s: float, now: datetime) -> Task:
        """Let a task wait for its model.

        Args:
            task: its `patient_until` and `suits` are found here.
            patience_s: how long it may wait for a cheaper model.
            now: aware, UTC.

        Returns:
            The task as it waits.
        """
        try:
            models = self.candidates(task, now.date())
        except UnknownNameError:
            self.backlog.add(task)
            return task
        estimates = self.vitals.estimates
        suits = suiting(task, models, self.catalog, now.date(), estimates)
        slowest_s = max(
            (
                self.vitals.needed_s(model.name, output_tokens(model, task.needs.max_tokens))
                for model in models
                if model.name in suits
            ),
            default=0.0,
        )
        start = max(task.accepted_at, task.not_before or task.accepted_at)
        until = patience_end(start, patience_s, task.deadline, slowest_s)
        waiting = replace(
            task,
            suits=suits,
            patient_until=until,
            purse=task.agent if task.agent in self.vitals.budgets.agents else None,
        )
        self.backlog.add(waiting)
        return waiting

    def decide(self, task: Task, now: datetime) -> Plan:
        """Plan one task on the picture as it is; nothing is changed but the time to look again."""
        try:
            models = self.candidates(task, now.date())
        except UnknownNameError as error:
            # Accepted under another catalog: it would break every tick from now on.
            return Refuse(((error.name, Objection(str(error), is_final=True)),))
        decision = plan(task, models, self.catalog, self.vitals, now)
        if isinstance(decision, Wait) and decision.until:
            self.look_again_at = min(decision.until, self.look_again_at or decision.until)
        return decision

    def decisions(self, now: datetime) -> Iterator[tuple[Task, Plan]]:
        """Take out each task that need not wait, with its plan; what is placed counts at once."""
        for task, decision in self.backlog.decide(now, lambda task: self.decide(task, now)):
            if isinstance(decision, Run):
                self.vitals.placed((task.id, task.number), under_way(decision.model, task, now))
            yield task, decision

    def next_moment(self) -> datetime | None:
        """Tell when the clock alone changes something; None: never."""
        moments = [moment for moment in (self.backlog.next_moment(), self.look_again_at) if moment]
        return min(moments, default=None)


def patience_of(catalog: Catalog, profile: str | None, needs: Needs) -> float:
    """Tell how long a task waits for a cheaper model: its own patience, else its profile's."""
    if needs.patience_s is not None:
        return needs.patience_s
    known = catalog.profiles.get(profile) if profile else None
    return known.patience_s if known else DEFAULT_PATIENCE_S
