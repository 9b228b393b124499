"""What metrics.jsonl says of time, on a clock that the test turns: rates, and the share that input was waited for."""

import itertools
import os

import numpy as np
import pytest

from input_pipeline.workers import usable_cores
from twostream_jax.drivers.starving import STARVED_LINES, starving_line
from twostream_jax.drivers.step_lines import AHEAD, LOOK_S, StepLines
from twostream_jax.metrics import ClipMetrics

BATCH = 10


class Simulation:
    """A device that takes `step_s` for a step and a reader that takes `input_s` for a batch and keeps two ready."""

    def __init__(self, input_s, step_s, ahead=2):
        self.now, self.input_s, self.step_s, self.ahead = 0.0, input_s, step_s, ahead
        self.device_free_at, self.busy = 0.0, 0.0
        self.arrivals, self.taken, self.lines, self.said = [], [], [], []
        self.step_lines = None

    def clock(self):
        return self.now

    # What StepLines asks of DeviceBatches.

    def arrival(self):
        """When the next batch is there: read after the one before, once there was room for it."""
        number = len(self.taken)
        while len(self.arrivals) <= number:
            room = self.taken[len(self.arrivals) - self.ahead - 1] if len(self.arrivals) > self.ahead else 0.0
            self.arrivals.append(max([room, *self.arrivals[-1:]]) + self.input_s)
        return self.arrivals[number]

    def wait(self, seconds):
        self.now = max(self.now, min(self.now + seconds, self.arrival()))
        return self.now >= self.arrival()

    def __next__(self):
        self.now = max(self.now, self.arrival())
        self.taken.append(self.now)
        return {}

    # A step, and the log.

    def step(self):
        """Dispatch a step; return its metrics, which are there when it ends."""
        self.device_free_at = max(self.now, self.device_free_at) + self.step_s
        self.busy += self.step_s
        sums = (np.ones(1, np.float32), np.ones(1, np.float32), Result(self, self.device_free_at))
        return ClipMetrics(*sums, np.float32(BATCH))

    def write(self, step, numbers):
        self.lines.append({"step": step, **numbers})

    def run(self, steps, log_every=10, before_step=lambda step: None, save_every=0):
        said = self.said.append
        lines = StepLines(self, log_every, BATCH, lambda step: 0.1, on_starving=said, clock=self.clock)
        for step in range(1, steps + 1):
            before_step(step)
            lines.timed(self)
            lines.add(step, self.step())
            if save_every and step % save_every == 0:
                lines.require_finite()
                lines.drain({"saved": True})
                with lines.clock_stopped():
                    self.now += 7.0
        return self.lines


class Result:
    """A number of the device: asking for it waits until its step has ended."""

    def __init__(self, simulation, end):
        self.simulation, self.end = simulation, end

    def is_ready(self):
        return self.simulation.now >= self.end

    def __array__(self, dtype=None, copy=None):
        self.simulation.now = max(self.simulation.now, self.end)
        return np.array([BATCH], np.float32)


@pytest.mark.parametrize(
    ("input_s", "step_s", "seconds_a_step", "share"),
    [
        (0.40, 0.10, 0.40, 0.75),  # the device works a quarter of the time
        (0.11, 0.10, 0.11, 0.01 / 0.11),
        (0.10, 0.10, 0.10, 0.0),
        (0.09, 0.10, 0.10, 0.0),
        (0.00, 0.10, 0.10, 0.0),
        (0.20, 0.00, 0.20, 1.0),
    ],
)
def test_the_share_is_the_time_that_the_device_stands_still(input_s, step_s, seconds_a_step, share):
    *_, before, last = Simulation(input_s, step_s).run(100)
    assert last["step"] - before["step"] == 10
    assert last["samples_per_second"] == pytest.approx(BATCH / seconds_a_step, rel=1e-6)
    # Short by one look a step at most, and never long.
    assert share - LOOK_S / seconds_a_step - 1e-6 <= last["input_wait"] <= share + 1e-6


def test_a_late_batch_costs_nothing_while_steps_are_at_work():
    """Every tenth batch takes as long as one and a half steps, of which more are under way or have theirs."""
    simulation = Simulation(0.05, 0.10)

    def late(step):
        simulation.input_s = 0.15 if step % 10 == 0 else 0.05

    lines = simulation.run(100, before_step=late)
    assert AHEAD == 2 and all(line["input_wait"] == 0 for line in lines[1:])
    assert lines[-1]["samples_per_second"] == pytest.approx(BATCH / 0.10)


def test_work_of_the_host_between_steps_is_no_wait_for_input():
    simulation = Simulation(0.05, 0.10)

    def busy(step):
        simulation.now += 0.50  # the device stands still meanwhile, and the batches are there

    lines = simulation.run(50, before_step=busy)
    assert all(line["input_wait"] == 0 for line in lines[1:])
    assert lines[-1]["samples_per_second"] == pytest.approx(BATCH / 0.50)


def test_the_share_over_a_run_is_that_of_a_device_that_stood_still():
    """Against the device's own count of the time it worked, for uneven input."""
    rng = np.random.default_rng(4)
    simulation = Simulation(0.1, 0.1)

    def uneven(step):
        simulation.input_s = float(rng.uniform(0.0, 0.3))

    lines = simulation.run(400, before_step=uneven)
    begun = lines[0]["step"]
    seconds = [10 * BATCH / line["samples_per_second"] for line in lines]
    waited = sum(line["input_wait"] * time for line, time in zip(lines, seconds, strict=True))
    still = sum(seconds) - 0.1 * lines[-1]["step"]
    # The lines end with the result of a step, while two more may be under way.
    assert begun == 10 and waited == pytest.approx(still, abs=400 * LOOK_S + AHEAD * 0.1) and still > 5


@pytest.mark.parametrize(("input_s", "seconds_a_step"), [(0.05, 0.1), (0.4, 0.4)])
def test_lines_at_saves_have_the_rate_of_their_own_steps(input_s, seconds_a_step):
    """Nothing of a line's time goes to its neighbours; what a save takes is in none."""
    simulation = Simulation(input_s, 0.1)
    lines = simulation.run(200, save_every=45)
    assert [line["step"] for line in lines if "saved" in line] == [45, 90, 135, 180]
    # Right after a save the batches are there that were read meanwhile, so those lines are faster than the reader.
    for before, line in itertools.pairwise(lines):
        calm = "saved" not in before or input_s < seconds_a_step
        assert not calm or line["samples_per_second"] == pytest.approx(BATCH / seconds_a_step, rel=0.01)
        assert line["samples_per_second"] <= BATCH / 0.1 * 1.01


@pytest.mark.parametrize(
    ("input_s", "said"), [(0.150, True), (0.105, True), (0.1015, False), (0.100, False), (0.01, False)]
)
def test_a_run_that_starves_is_told_once(input_s, said):
    """Above 2 % of the lines' time, of which looking now and then may miss 1 % here."""
    simulation = Simulation(input_s, 0.1)
    simulation.run(10 * (STARVED_LINES + 1) + AHEAD)
    assert len(simulation.said) == said
    simulation.run(500)
    assert len(simulation.said) == 2 * said
    if said:
        share = (input_s - 0.1) / input_s
        assert simulation.said[0] == pytest.approx(share, abs=LOOK_S / 0.1)


@pytest.mark.parametrize("starved", [{1}, {1, 2}, {1, 2, 3}, {2, 3}, {2, 3, 5, 6, 8}])
def test_a_start_and_a_moment_are_no_starving(starved):
    """The first line holds the start; later ones must come on end."""
    simulation = Simulation(0.05, 0.1)

    def moment(step):
        # Longer than what is read ahead and under way lasts.
        simulation.input_s = 2.0 if (step - 1) // 10 + 1 in starved and (step - 1) % 10 == 4 else 0.05

    lines = simulation.run(100, before_step=moment)
    assert {line["step"] // 10 for line in lines if line["input_wait"] > 0.02} == {1} | starved
    assert simulation.said == []


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"on_cpu": True}, "reading and training share 8 cores, so only more of them, or an accelerator, would help"),
        (
            {},
            "set data.num_workers=4: worker processes read beside each other, or prepare the records with data.codec=dct",
        ),
        ({"workers": 4}, "prepare the records with data.codec=dct (--mode=prepare)"),
        ({"flow_jpegs": False, "cores": 32, "workers": 8}, "set data.num_workers=16: worker processes"),
        ({"flow_jpegs": False, "workers": 4}, "move the records to a faster disk, or give the machine more cores"),
    ],
)
def test_the_remedy_fits(facts, told):
    usual = {"workers": 0, "cores": 8, "flow_jpegs": True, "on_cpu": False}
    line = starving_line(0.314, **usual | facts)
    assert line.startswith("note: training waits for its input 31% of the time (input_wait in metrics.jsonl): ")
    assert told in line and "\n" not in line


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()
