"""What must hold after every storm, from the ledger, the journal, the callers and Redis."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from redis import Redis

from ledger import rollup
from tests.chaos.journal import read_journal
from tests.chaos.storm import Storm
from workers.app import DISPATCH_QUEUE
from workers.messages import lists_of

INPUT_USD, OUTPUT_USD = Decimal("0.000001"), Decimal("0.000002")
"""What a token of `toll` costs, by tests/chaos/catalog."""

SCARCE_CALLS, MINUTE_S = 6, 60.0

SLACK_S = 1.0
"""A call may begin so long after its claim, and still be counted exactly."""

MOST_SHOWN = 5
"""Of the faults that break one rule."""

TASKS = """
    SELECT tasks.id::text AS id, state, request -> 'messages' -> -1 ->> 'content' AS prompt,
           error ->> 'type' AS error,
           (SELECT answer -> 'message' ->> 'content'
              FROM attempts WHERE task_id = tasks.id AND outcome = 'succeeded') AS text,
           (SELECT count(*) FROM attempts WHERE task_id = tasks.id AND outcome = 'succeeded') AS successes,
           (SELECT count(*) FROM attempts WHERE task_id = tasks.id AND outcome IS NULL) AS still_open,
           (SELECT count(*) FROM attempts WHERE task_id = tasks.id) AS attempts,
           (SELECT count(*) > 0
              FROM attempts WHERE task_id = tasks.id AND outcome IN ('lost', 'cancelled')) AS is_guessed,
           (SELECT sum(cost_usd) FROM attempts WHERE task_id = tasks.id) AS cost_usd
      FROM tasks
"""

ATTEMPTS = """
    SELECT task_id::text AS task, number, model, tier, worker, claimed_at, outcome, cost_usd, reserved_usd
      FROM attempts
"""

FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Findings:
    """Figures, and what is wrong, by rule."""

    faults: Counter[str]
    """How many there were, by kind."""
    figures: dict[str, object] = field(default_factory=dict[str, object])
    wrong: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def injected(self) -> int:
        return sum(self.faults.values())

    def rule(self, name: str, faults: Iterator[str]) -> None:
        """Check a rule: nothing may break it."""
        self.wrong[name] = list(faults)

    @property
    def is_clean(self) -> bool:
        return not any(self.wrong.values())

    def lines(self) -> Iterator[str]:
        for name, figure in self.figures.items():
            yield f"  {name:<58} {figure!s:>9}"
        for name, faults in self.wrong.items():
            yield f"  {name:<58} {len(faults):>9}"
            for fault in faults[:MOST_SHOWN]:
                yield f"      {fault}"


class Audit:
    """All that is known after a storm."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in read_journal(storm.journal_path):
            self.events[event["event"]].append(event)
        url = storm.fleet.settings.database_url
        with psycopg.connect(url) as connection, connection.cursor(row_factory=namedtuple_row) as cursor:
            db: Any = cursor
            self.tasks: dict[str, Any] = {row.id: row for row in db.execute(TASKS)}
            self.attempts: dict[tuple[str, int], Any] = {
                (row.task, row.number): row for row in db.execute(ATTEMPTS)
            }
            self.changes: list[Any] = db.execute("SELECT * FROM chaos_changes ORDER BY at").fetchall()
            self.differences = rollup.differences(connection)
        self.calls = self.events["call"]
        self.called = Counter((call["task"], call["attempt"]) for call in self.calls)

    def findings(self) -> Findings:
        found = Findings(self.storm.injected)
        states = Counter(task.state for task in self.tasks.values())
        outcomes = Counter(attempt.outcome for attempt in self.attempts.values())
        found.figures |= {f"fault: {kind}": count for kind, count in sorted(self.storm.injected.items())}
        found.figures |= {
            "faults": found.injected,
            "workers that a task killed": len(self.events["death"]),
            "ids that callers got": len({event["task"] for event in self.events["enqueued"]}),
            "calls of `delay` that Redis refused": len(self.events["refused"]),
            "never accepted: Redis lost the message (allowed)": len(set(self.gone())),
            "tasks in the ledger": len(self.tasks),
            **{f"  tasks {state}": count for state, count in sorted(states.items())},
            "attempts": len(self.attempts),
            **{f"  attempts {outcome}": count for outcome, count in sorted(outcomes.items(), key=str)},
            "calls that engines made": len(self.calls),
            "results that callers got": len(self.events["answer"]),
            "true cost, USD": self.true_cost(self.calls),
            "cost in the ledger, USD": sum(
                (attempt.cost_usd or Decimal(0) for attempt in self.attempts.values()), Decimal(0)
            ),
        }
        found.rule("lost tasks", self.lost())
        found.rule("tasks that did not end", self.not_ended())
        found.rule("final states or outcomes that changed", self.changed())
        found.rule("tasks whose attempts do not fit their state", self.misfits())
        found.rule("attempts that ran twice", self.twice())
        found.rule("calls that are not in the ledger", self.unknown())
        found.rule("calls that cost more than the ledger says", self.understated())
        found.rule("sums that differ from the attempts", map(str, self.differences))
        found.rule("minutes with more calls than the limit", self.over_limit())
        found.rule("answers to another prompt", self.mixed_up())
        found.rule("callers with another result than the ledger", self.contradicted())
        found.rule("results in Redis that differ from the ledger", self.contradicted_by_redis())
        found.rule("callers that were left waiting", self.unanswered())
        found.rule("messages left behind or buried", self.left_behind())
        found.rule("processes that ended by themselves", self.ended())
        return found

    def dump(self, path: Path) -> None:
        """Write the ledger down, for whoever looks for the cause."""
        rows = (*self.tasks.values(), *self.attempts.values(), *self.changes)
        path.write_text("\n".join(map(str, rows)))

    def missing(self) -> Iterator[dict[str, Any]]:
        return (event for event in self.events["enqueued"] if event["task"] not in self.tasks)

    def gone(self) -> Iterator[str]:
        for event in self.missing():
            if self.storm.is_lost_with_redis(event["began_at"], event["at"], event["task"]):
                yield event["task"]

    def lost(self) -> Iterator[str]:
        for event in self.missing():
            if not self.storm.is_lost_with_redis(event["began_at"], event["at"], event["task"]):
                yield f"{event['task']} {event['prompt']!r} enqueued at {event['at']:.3f}"

    def not_ended(self) -> Iterator[str]:
        for task in self.tasks.values():
            if task.state not in FINAL or task.still_open:
                yield f"{task.id} {task.prompt!r} is {task.state}, open attempts: {task.still_open}"

    def changed(self) -> Iterator[str]:
        for change in self.changes:
            yield f"{change.what} of {change.id} {change.number or ''}: {change.was} -> {change.became}"

    def misfits(self) -> Iterator[str]:
        for task in self.tasks.values():
            if task.successes != (task.state == "succeeded"):
                yield f"{task.id} {task.prompt!r} is {task.state}, attempts that succeeded: {task.successes}"

    def twice(self) -> Iterator[str]:
        for (task, number), times in self.called.items():
            if times > 1:
                yield f"{task} attempt {number}: {times} calls"

    def unknown(self) -> Iterator[str]:
        for call in self.calls:
            attempt = self.attempts.get((call["task"], call["attempt"]))
            if attempt is None or attempt.worker != call["worker"] or attempt.model != call["model"]:
                yield f"{call['task']} attempt {call['attempt']} of {call['worker']}: {attempt}"

    def true_cost(self, calls: list[dict[str, Any]]) -> Decimal:
        return sum(
            (
                call["prompt_tokens"] * INPUT_USD + call["completion_tokens"] * OUTPUT_USD
                for call in calls
                if call["model"] == "toll"
            ),
            Decimal(0),
        )

    def understated(self) -> Iterator[str]:
        """Look at each call; one of unknown cost, after a bug on a paid model, counts as budgets count it."""
        for call in self.calls:
            attempt = self.attempts.get((call["task"], call["attempt"]))
            true = self.true_cost([call])
            if attempt is None:
                continue
            booked = attempt.reserved_usd if attempt.cost_usd is None else attempt.cost_usd
            if booked < true or (attempt.cost_usd is None and not attempt.reserved_usd):
                yield f"{call['task']} {call['attempt']} ({attempt.outcome}): {attempt.cost_usd} < {true}"

    def over_limit(self) -> Iterator[str]:
        """Look at every minute, of the clock or not, in which more calls began than the limit allows.

        A worker that is stopped between its claim and its call calls later than anybody can know; such calls
        are left out.
        """
        moments = sorted(
            call["at"] for call in self.calls if call["model"] == "scarce" and self.is_prompt(call)
        )
        for first, one_too_many in zip(moments, moments[SCARCE_CALLS:], strict=False):
            if one_too_many - first < MINUTE_S:
                yield f"{SCARCE_CALLS + 1} calls within {one_too_many - first:.2f} s from {first:.3f}"

    def is_prompt(self, call: dict[str, Any]) -> bool:
        attempt = self.attempts.get((call["task"], call["attempt"]))
        claimed_at: datetime | None = attempt.claimed_at if attempt else None
        return claimed_at is not None and call["at"] - claimed_at.timestamp() < SLACK_S

    def mixed_up(self) -> Iterator[str]:
        for task in self.tasks.values():
            if task.state == "succeeded" and task.text != task.prompt:
                yield f"{task.id} {task.prompt!r} got {task.text!r}"
        for event in self.events["enqueued"]:
            task = self.tasks.get(event["task"])
            if task is not None and task.prompt != event["prompt"]:
                yield f"{task.id} was {event['prompt']!r}, is {task.prompt!r}"

    def contradicted(self) -> Iterator[str]:
        for event in self.events["answer"]:
            task, said = self.tasks.get(event["task"]), event["said"]
            if task is None:
                yield f"{event['task']}: {said}, but it is not in the ledger"
            elif "error" in said:
                expected = {"failed": task.error, "cancelled": "TaskRevokedError"}.get(task.state)
                if said["error"] != expected:
                    yield f"{task.id} {task.prompt!r} is {task.state} ({task.error}), its caller got {said}"
            elif (said["text"], said["attempts"]) != (task.text, task.attempts):
                yield f"{task.id}: {task}, its caller got {said}"
            elif Decimal(said["cost_usd"]) != task.cost_usd and not task.is_guessed:
                yield f"{task.id} cost {task.cost_usd}, its caller got {said}"

    def contradicted_by_redis(self) -> Iterator[str]:
        status = {"succeeded": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
        with Redis.from_url(self.storm.fleet.settings.redis_url) as redis:
            for task in self.tasks.values():
                raw: Any = redis.get(f"celery-task-meta-{task.id}")
                if raw is None:
                    continue
                meta = json.loads(raw)
                if meta["status"] != status.get(task.state):
                    yield f"{task.id} {task.prompt!r} is {task.state}, Redis has {meta['status']}"
                elif task.state == "succeeded":
                    text = meta["result"]["choices"][0]["message"]["content"]
                    if text != task.text:
                        yield f"{task.id} has {task.text!r}, Redis has {text!r}"

    def unanswered(self) -> Iterator[str]:
        for event in self.events["unanswered"]:
            task = self.tasks.get(event["task"])
            if task is not None:
                yield f"{task.id} {task.prompt!r} is {task.state}"

    def left_behind(self) -> Iterator[str]:
        with Redis.from_url(self.storm.fleet.settings.redis_url) as redis:
            for name in (*lists_of(DISPATCH_QUEUE), f"{DISPATCH_QUEUE}.dead"):
                left: Any = redis.llen(name)
                if left:
                    yield f"{left} on {name!r}"

    def ended(self) -> Iterator[str]:
        died = {event["pid"] for event in self.events["death"]}
        for name, pid, status in self.storm.ended:
            if pid not in died:
                yield f"{name}, pid {pid}, status {status}"
