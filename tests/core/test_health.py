"""Named checks."""

from structlog.testing import capture_logs

from core.health import Check, Health, State


def test_a_part_that_failed_makes_it_unready_and_one_that_is_degraded_does_not(health: Health) -> None:
    """Ready means: able to do its work."""
    assert health.ready
    health.report("amqp", State.DEGRADED, "away")
    assert health.ready
    health.report("store", State.FAILED, "gone")
    assert not health.ready
    health.report("store", State.OK)
    assert health.ready
    assert health.checks["amqp"] == Check(State.DEGRADED, "away")


def test_draining_is_for_good(health: Health) -> None:
    """Nothing makes it ready again."""
    health.drain()
    health.report("store", State.OK)
    assert not health.ready


def test_each_change_is_told_once(health: Health) -> None:
    """A repetition with other words is kept, but neither logged nor told."""
    told: list[bool] = []
    health.listen(lambda: told.append(health.ready))
    with capture_logs() as lines:
        health.report("store", State.OK, "at first")
        health.report("store", State.FAILED, "one")
        health.report("store", State.FAILED, "two")
        health.report("store", State.OK)
        health.drain()
    assert told == [False, True, False]
    assert [(line["log_level"], line["part"]) for line in lines] == [("warning", "store"), ("info", "store")]


def test_the_detail_of_a_repetition_is_the_newest(health: Health) -> None:
    """`/readyz?verbose` shows what is known now."""
    health.report("relay", State.OK, "one")
    health.report("relay", State.OK, "two")
    assert health.checks["relay"].detail == "two"


def test_what_is_not_well_comes_with_advice(health: Health) -> None:
    """What it means for users, and what to do; once per change."""
    with capture_logs() as lines:
        for part in ("store", "broker", "inbox", "relay"):
            health.report(part, State.DEGRADED, "a reason")
    assert [line["part"] for line in lines if line["advice"].endswith(".")] == ["store", "broker", "inbox", "relay"]


def test_it_is_not_ready_before_it_started(health: Health) -> None:
    """Who listens is told when it is."""
    told: list[bool] = []
    health.listen(lambda: told.append(health.ready))
    health.start()
    assert (health.ready, health.problem) == (False, "the service is starting")
    health.started()
    assert (health.ready, told) == (True, [True])
