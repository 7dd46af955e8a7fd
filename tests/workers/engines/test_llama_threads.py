"""How many threads a step uses, on machines that are made up."""

from collections import Counter
from collections.abc import Callable

from workers.engines.llama_threads import ThreadCount


def run(count: ThreadCount, steps: int, step_s: Callable[[int], float], tokens: int = 8) -> Counter[int]:
    """Run steps on a machine; how often each number of threads was used."""
    used: Counter[int] = Counter()
    for _ in range(steps):
        threads = count.choose(tokens)
        count.note(tokens, step_s(threads))
        used[threads] += 1
    return used


def undisturbed(threads: int) -> float:
    return 0.08 / threads


def beside_a_busy_program(threads: int) -> float:
    """Two threads on two cores, of which another program wants one: as measured."""
    return 0.5 if threads > 1 else 0.1


def test_all_cores_are_used_while_they_are_free():
    """Half the cores are half the speed; one trial is all that may be lost."""
    assert run(ThreadCount(2), 200, undisturbed) == {2: 199, 1: 1}


def test_one_slow_step_may_have_any_cause():
    """The step that reads the weights from the disk again must not make the next ones slow too."""
    count, slow = ThreadCount(2), iter([0.5, *[0.04] * 100])
    run(count, 20, undisturbed)

    assert run(count, 50, lambda _: next(slow)) == {2: 50}


def test_fewer_are_used_beside_a_busy_program():
    """Each step with all threads would take five times as long."""
    used = run(ThreadCount(2), 1000, beside_a_busy_program)

    assert used[1] > 950


def test_all_are_used_again_when_the_other_program_ends():
    """A build that ran for a minute must not leave the engine at half speed for the day."""
    count = ThreadCount(2)
    run(count, 100, beside_a_busy_program)

    used = run(count, 200, undisturbed)

    assert used[2] > 100


def test_a_machine_with_more_cores_goes_down_in_halves():
    """Of 8 cores 4 may well be free."""
    used = run(ThreadCount(8), 500, lambda threads: 0.5 if threads > 4 else 0.08 / threads)

    assert used.most_common(1)[0][0] == 4


def test_long_and_short_steps_are_not_compared():
    """A long prompt takes longer than one token on any number of threads."""
    count = ThreadCount(2)
    run(count, 20, undisturbed, tokens=1)
    run(count, 20, lambda threads: 0.9 / threads, tokens=128)

    assert run(count, 20, undisturbed, tokens=1) == {2: 20}


def test_one_core_has_nothing_to_choose():
    """The smallest host."""
    assert run(ThreadCount(1), 50, undisturbed) == {1: 50}
