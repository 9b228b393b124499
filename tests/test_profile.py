"""train.profile: which steps are traced, that the devices are idle at both ends, and what is left when a run stops."""

import gzip
import json
import time

import jax
import pytest

from input_pipeline import pipeline
from input_pipeline.schema import UserError
from twostream_jax import validate
from twostream_jax.drivers import train
from twostream_jax.drivers.profile import Profile
from twostream_jax.run_log import read_metrics


def test_the_steps_are_named_by_the_first_and_the_last():
    assert list(validate.profiled_steps("11:13")) == [11, 12, 13]
    assert list(validate.profiled_steps("1:1")) == [1]
    assert list(validate.profiled_steps("")) == []


class Told:
    """Stands in for the profiler, the devices and the clock, and remembers in which order they were called."""

    def __init__(self, monkeypatch, stop_error=None):
        self.calls, self.stop_error = [], stop_error
        monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: self.calls.append(f"start {folder.name}"))
        monkeypatch.setattr(jax.profiler, "stop_trace", self.stop)
        monkeypatch.setattr(jax, "block_until_ready", lambda state: self.calls.append(f"wait for {state}"))

    def stop(self):
        self.calls.append("stop")
        if self.stop_error:
            raise self.stop_error

    def __enter__(self):
        self.calls.append("clock stops")

    def __exit__(self, *_):
        self.calls.append("clock runs")

    def clock_stopped(self):
        return self

    def run(self, profile, first, last):
        """Take steps first .. last; return what was called, by step."""
        by_step = {}
        for step in range(first, last + 1):
            self.calls.clear()
            profile.before(step, "old", self)
            self.calls.append("step")
            profile.after(step, "new", self)
            by_step[step] = self.calls.copy()
        return by_step


BEGINS = ["clock stops", "wait for old", "start profile", "clock runs"]
ENDS = ["clock stops", "wait for new", "stop", "clock runs"]


@pytest.mark.parametrize(
    ("wanted", "start", "first", "last"),
    [
        ("3:5", 0, 3, 5),
        ("1:1", 0, 1, 1),
        ("3:5", 3, 4, 5),
        ("3:5", 4, 5, 5),
        ("", 0, None, None),
        ("2:3", 3, None, None),
    ],
)
def test_a_trace_begins_and_ends_with_idle_devices(monkeypatch, tmp_path, capsys, wanted, start, first, last):
    profile = Profile(tmp_path / "profile", wanted, start)
    by_step = Told(monkeypatch).run(profile, start + 1, 7)
    for step, calls in by_step.items():
        assert calls == (BEGINS if step == first else []) + ["step"] + (ENDS if step == last else [])
    out, err = capsys.readouterr()
    assert ("no trace, the run continues at step 3" in out) == (wanted == "2:3") and err == ""
    assert (f"{tmp_path / 'profile'}: trace of training steps" in out) == (last is not None)


def test_a_run_that_stops_early_ends_its_trace_once(monkeypatch, tmp_path):
    told, profile = Told(monkeypatch), Profile(tmp_path / "profile", "2:9", 0)
    told.run(profile, 1, 4)
    for _ in range(2):
        profile.close()
    assert told.calls == ["step", "stop"]


def test_only_the_first_process_traces(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    calls = Told(monkeypatch).run(Profile(tmp_path, "1:2", 0), 1, 3)
    assert set(map(tuple, calls.values())) == {("step",)}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("INTERNAL: write failed")])
def test_a_trace_that_cannot_be_written_costs_a_line(monkeypatch, tmp_path, capsys, error):
    Told(monkeypatch, error).run(Profile(tmp_path / "profile", "1:1", 0), 1, 2)
    out, err = capsys.readouterr()
    assert err.startswith(f"warning: {tmp_path / 'profile'}: the trace cannot be written (") and out == ""


def test_a_run_that_starves_is_told_and_one_that_fails_leaves_its_trace(
    config, one_device, tmp_path, monkeypatch, capsys
):
    batches, error = pipeline.train_batches, UserError("record 7 is damaged")

    def slow_and_damaged(*arguments, **named):
        for number, batch in enumerate(batches(*arguments, **named)):
            time.sleep(0.3)
            if number == 11:
                raise error
            yield batch

    monkeypatch.setattr(pipeline, "train_batches", slow_and_damaged)
    config.train.profile, config.train.log_every = "7:14", 1
    config.train.steps, config.train.checkpoint_every = 20, 10
    with pytest.raises(UserError) as raised:
        train.train(config, tmp_path)
    assert raised.value is error
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("note: training waits for its input ")]
    assert len(told) == 1 and f"{tmp_path / 'profile'}: trace of training steps" in out
    # A batch takes a third of a second, a step some milliseconds. The trace's own time is in none of the lines.
    lines = {line["step"]: line for line in read_metrics(tmp_path)}
    assert all(lines[step]["input_wait"] > 0.5 and lines[step]["samples_per_second"] > 25 for step in (7, 8, 9, 10))
    # Steps before the damage were taken, traced and saved.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]
    (file,) = (tmp_path / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert list(file.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    # The twelfth asked for the batch that never came.
    assert steps[:5] == ["7", "8", "9", "10", "11"] and set(steps[5:]) <= {"12"}
    assert {"next batch", "batch to the devices"} <= {event.get("name") for event in events}
