"""How often, and when, something is tried again."""

from core.remote.retries import RetryBudget, pause


def test_retries_are_a_tenth_of_the_calls() -> None:
    """Ten can be had at once, and then one for every ten calls, however many are wanted."""
    budget = RetryBudget()
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
        spent += budget.spend()
    assert 100 <= spent <= 110


def test_quiet_times_save_up_no_more_than_ten() -> None:
    """A million calls without a retry do not allow a storm."""
    budget = RetryBudget()
    for _ in range(1_000_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_pauses_grow_and_are_jittered_fully() -> None:
    """Each is anywhere between nothing and a ceiling that doubles, up to the longest."""
    for failures, ceiling in ((1, 0.1), (3, 0.4), (30, 2.0)):
        pauses = [pause(failures) for _ in range(2000)]
        assert 0 <= min(pauses) < ceiling * 0.05
        assert ceiling * 0.95 < max(pauses) <= ceiling
