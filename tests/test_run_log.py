"""metrics.jsonl, tensorboard and progress."""

import io
import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from twostream_jax.files import write_json
from twostream_jax.run_log import MetricsLog, Progress, read_metrics, time_left


def test_steps_stand_once_after_a_resume(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 10})
    log.close()
    # A crash in the middle of a line; the run continues from its checkpoint at step 10.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    log = MetricsLog(tmp_path, 10)
    for step in (20, 30):
        log.write(step, {"loss": -step})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 1.0), (20, -20), (30, -30)]


def test_tensorboard_files_hold_the_numbers(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(5, {"loss": 0.25})
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, found, at = file.read_bytes(), {}, 0
    # A record is a length, its checksum, that many bytes, and their checksum.
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        at += size + 16
    assert found["loss"] == (5, 0.25)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7322, "2:02:02")])
def test_time_left(seconds, text):
    assert time_left(seconds) == text


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_rate_and_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("train", "steps", clock, stream)
    progress.update(100, 1000)  # a resumed run: these 100 do not count in its rate
    clock.now = 60.0
    progress.update(220, 1000, "loss 1.5")
    assert stream.getvalue() == "train: 220/1000 steps, 2.0 steps/s, 6:30 left  loss 1.5\n"


def test_progress_off_a_terminal_is_a_line_every_half_minute_and_the_end():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("prepare", "videos", clock, stream)
    for second in range(100):
        clock.now = float(second)
        progress.update(second + 1, 100)
    progress.update(100, 100)
    assert stream.getvalue().count("\n") == 4
    assert stream.getvalue().splitlines()[-1].startswith("prepare: 100/100")


def test_progress_on_a_terminal_rewrites_one_line():
    clock, stream = Clock(), Terminal()
    progress = Progress("eval", "stacks", clock, stream)
    for second in range(1, 4):
        clock.now = float(second)
        progress.update(second, 3)
    progress.close()
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().count("\r") == 3


def test_json_appears_whole(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}
