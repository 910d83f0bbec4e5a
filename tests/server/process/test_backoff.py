from jitney.server.process.backoff import DELAYS_S, SERVED_S, STEADY_S, Backoff


def test_the_first_attempt_is_immediate_and_the_last_ones_stay_at_the_ceiling() -> None:
    backoff = Backoff(1e9)
    assert [backoff.failed(0) for _ in range(12)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 30, 30, 30]
    assert max(DELAYS_S) == 30


def test_gives_up_after_failing_for_long_enough() -> None:
    backoff = Backoff(10)
    assert backoff.failed(100) == 0
    assert backoff.failed(109.9) == 1
    assert backoff.failed(110) is None


def test_zero_means_not_to_try_again() -> None:
    assert Backoff(0).failed(5) is None


def test_loading_restarts_the_clock_but_not_the_delays() -> None:
    """A worker that loads and dies of every request is started ever more slowly, and never given up."""
    backoff = Backoff(10)
    delays = []
    for now in range(0, 60, 5):
        delays.append(backoff.failed(now))
        backoff.loaded(now + 1)
    assert delays == [0, 1, 1, 2, 3, 5, 8, 13, 21, 30, 30, 30]


def test_steady_service_starts_the_delays_again() -> None:
    backoff = Backoff(1e9)
    for now in range(5):
        backoff.failed(now)
    backoff.loaded(10)
    assert backoff.failed(10 + STEADY_S - 0.1) == 5
    backoff.loaded(30)
    assert backoff.failed(30 + STEADY_S) == 0
    assert backoff.failed(30 + STEADY_S) == 1


def test_a_worker_that_answers_between_its_crashes_is_soon_back() -> None:
    """Its model works: clients wait for it whose requests do no harm."""
    backoff, delays = Backoff(10), []
    for now in range(0, 50, 5):
        backoff.loaded(now)
        delays.append(backoff.failed(now + 1, served=True))
    assert delays == [0, 1, 1, *[SERVED_S] * 7]
    backoff.loaded(60)
    assert backoff.failed(61) == 30  # this time it answered nothing
