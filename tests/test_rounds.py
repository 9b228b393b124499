"""Interleaved rounds: fair to every contestant, and their times are those of their own work."""

import multiprocessing
import statistics
import time
from functools import partial

from twostream_jax.bench.rounds import Rounds, interleave

# Builders, which the processes of the rounds import.


def sleeper(seconds, log):
    def work():
        with open(log, "a") as file:
            file.write(f"{seconds}\n")
        time.sleep(seconds)

    return work, {"slept": seconds}


def spend(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def busy(seconds):
    return partial(spend, seconds), {}


def parent_of_busy(seconds, persistent):
    """Work in a process of its own, which ends with the round or goes on to the next."""
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(1) if persistent else None

    def work():
        own = pool or context.Pool(1)
        own.apply(spend, (seconds,))
        if not persistent:
            own.close()
            own.join()

    return work, {}


def late(seconds):
    return lambda: None, {}, lambda: time.sleep(seconds)


def broken(log):
    raise ImportError("no module named\n'anything'")


def test_rounds_are_interleaved_and_what_cannot_be_built_is_told(tmp_path):
    log = tmp_path / "log"
    contestants = {"short": (sleeper, (0.02, log)), "long": (sleeper, (0.06, log)), "absent": (broken, (log,))}
    progress = []
    found = interleave(contestants | {"busy": (busy, (0.05,))}, 3, lambda done, total: progress.append((done, total)))
    assert found.missing == {"absent": "ImportError: no module named"} and found.facts["long"] == {"slept": 0.06}
    # One of each that is not counted; then the order turns.
    assert [float(line) for line in log.read_text().split()] == [0.02, 0.06, 0.02, 0.06, 0.06, 0.02, 0.02, 0.06]
    assert {len(times) for times in found.wall_s.values()} == {3} and progress == [(n, 3) for n in range(4)]
    # Sleeping costs no CPU time, and another's work is not counted.
    assert statistics.median(found.cpu_s["long"]) < 0.03 < 0.05 <= statistics.median(found.cpu_s["busy"])
    assert found.fastest(["long", "short", "absent"]) == "short" and found.fastest(["absent"]) is None


def test_the_time_of_processes_that_a_contestant_starts_counts():
    contestants = {"ending": (parent_of_busy, (0.3, False)), "staying": (parent_of_busy, (0.3, True))}
    found = interleave(contestants, 2, lambda *_: None)
    # Of one that stays nothing but its work counts; /proc counts in hundredths.
    assert all(0.28 <= seconds < 0.6 for seconds in found.cpu_s["staying"]), found
    assert all(seconds >= 0.28 for seconds in found.cpu_s["ending"]), found


def test_what_gets_ready_is_not_timed():
    found = interleave({"late": (late, (0.2,))}, 2, lambda *_: None)
    assert max(found.wall_s["late"]) < 0.1


def test_the_ratio_is_that_of_neighbours_in_time():
    # The machine was half as fast in the second round: the ratio of each round is 2.
    found = Rounds(wall_s={"ours": [2.0, 4.0, 2.2], "peer": [1.0, 2.0, 1.1]})
    assert found.ratio("ours", "peer") == 2.0 and found.median("ours") == 2.2
