"""Tasks that need an embedding model: one model can take them, and chat models never do."""

from dataclasses import replace
from datetime import timedelta

from routing.candidates import Candidates, candidates
from routing.plan import Refuse, Run, plan
from routing.task import Needs, Task, needs_from
from routing.vitals import Vitals
from tests.routing.made import (
    NOW,
    TODAY,
    a_catalog,
    a_model,
    a_paid_model,
    a_task,
    an_attempt,
    an_end,
    proven,
)

VECTORS = a_model("vectors", kind="embedding", engine="echo", dimensions=8, context_tokens=512)
OLD = a_model("old", kind="embedding", engine="echo", dimensions=8, retired_on=TODAY, successor="vectors")
CHAT = a_model("chat", engine="echo")
KIMI = a_paid_model("kimi", engine="echo")
CATALOG = a_catalog(CHAT, KIMI, VECTORS, OLD, fallbacks=("kimi",), embedding="vectors")
NEEDS = Needs(prompt_tokens=100, max_tokens=0, kind="embedding")


def some_vitals() -> Vitals:
    slots = dict.fromkeys((model.queue for model in CATALOG.models.values()), 4)
    return proven(Vitals(CATALOG, slots=slots))


def embedding(model: str = "vectors", needs: Needs = NEEDS) -> Task:
    return a_task(model=model, needs=needs)


def test_the_model_that_is_named_is_the_only_candidate():
    """Another one's vectors cannot be compared; a fallback would fill a collection with noise."""
    assert candidates(embedding(), CATALOG, TODAY) == (VECTORS,)


def test_a_retired_one_stands_for_its_successor():
    assert candidates(embedding("old"), CATALOG, TODAY) == (VECTORS,)


def test_a_list_of_candidates_is_not_taken_for_one_of_the_other_kind():
    """They are remembered by what was asked; the kind is a part of that."""
    remembered = Candidates(CATALOG)
    chat = a_task(model="vectors")

    assert remembered(embedding(), TODAY) == (VECTORS,)
    assert [model.name for model in remembered(chat, TODAY)] == ["vectors", "kimi"]


def test_each_kind_of_task_is_refused_by_the_other_kind_of_model():
    """What the caller's process checks may have been checked against another catalog."""
    for task, models in ((embedding("chat"), (CHAT,)), (a_task(model="vectors"), (VECTORS,))):
        decision = plan(task, models, CATALOG, some_vitals(), NOW)

        assert isinstance(decision, Refuse)
        assert "the task needs one of kind" in decision.passed_over[0][1].why


def test_many_texts_may_be_more_than_the_context():
    """Each is read by itself; two thousand short ones are more tokens than any context has."""
    many = replace(NEEDS, prompt_tokens=1_000_000)

    assert plan(embedding(needs=many), (VECTORS,), CATALOG, some_vitals(), NOW) == Run(VECTORS, ())


def test_what_was_taken_from_the_cache_teaches_nothing_about_estimates():
    """A prompt would be estimated too low, and sent to a model that it does not fit."""
    vitals = some_vitals()
    needs = replace(NEEDS, prompt_tokens=900, wide_tokens=900, script="CJK")
    for number in range(50):
        task = embedding(needs=needs)
        vitals.placed((task.id, 1), an_attempt(VECTORS, needs=needs, placed_at=NOW), NOW)
        at = NOW + timedelta(seconds=number)
        vitals.ended((task.id, 1), an_end(at=at, prompt_tokens=9, completion_tokens=0))

    assert vitals.estimates.tokens("vectors", "CJK", 900, 900) == 900


def test_the_kind_is_kept_with_the_task():
    """A dispatcher that takes over reads the tasks from the ledger."""
    assert needs_from({"kind": "embedding", "prompt_tokens": 100, "max_tokens": 0}) == NEEDS
    assert needs_from({"prompt_tokens": 100, "max_tokens": 0}).kind == "chat"
