"""metrics.jsonl, tensorboard and progress."""

import io
import json

import pytest
from trained import events, scalars

from input_pipeline.schema import UserError
from twostream_jax.files import write_json
from twostream_jax.run_log import MetricsLog, Progress, read_metrics, time_left


def test_steps_stand_once_after_a_resume(tmp_path):
    log = MetricsLog(tmp_path, 0, clock=lambda: 1.5e9)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 8})
    log.close()
    (tmp_path / "tensorboard" / "events.out.tfevents.1234567890.host").write_bytes(b"of an earlier version")
    # A crash in the middle of a line; the run continues from its checkpoint at step 10.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    log = MetricsLog(tmp_path, 10, clock=lambda: 2e9)
    assert scalars(tmp_path) == [(10, "loss", 1.25)]
    for step in (20, 30):
        log.write(step, {"loss": -step, "rate": 0.5})
    # Even before it is closed, as after a kill.
    expected = [(10, "loss", 1.25), (20, "loss", -20), (20, "rate", 0.5), (30, "loss", -30), (30, "rate", 0.5)]
    assert scalars(tmp_path) == expected
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 1.25), (20, -20), (30, -30)]
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["events.out.tfevents.2000000000.000000"]


def test_an_event_file_has_the_checksums_that_viewers_check(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(5, {"loss": 0.25})
    log.close()
    first = events(tmp_path)[0]
    assert first.file_version == "brain.Event:2" and events(tmp_path)[-1].step == 5
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, at = file.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        for start, end in ((at, at + 8), (at + 12, at + 12 + size)):
            assert int.from_bytes(data[end : end + 4], "little") == masked(crc32c(data[start:end]))
        at += size + 16


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, from its polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """TFRecord's mask: rotated right by 15 bits plus a constant."""
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_checksum_here_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


def test_a_line_that_no_run_wrote_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is not one that training writes .* delete that line"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\x00')
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert read_metrics(tmp_path / "none") == []


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


def test_progress_of_what_has_no_end_shows_the_rate_alone():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("predict 0", "frames", clock, stream)
    progress.update(0, None)
    for clock.now in (10.0, 40.0, 50.0, 80.0):
        progress.update(25 * int(clock.now), None, "0 dropped")
    assert stream.getvalue().splitlines() == [
        "predict 0: 1000 frames, 25.0 frames/s  0 dropped",
        "predict 0: 2000 frames, 25.0 frames/s  0 dropped",
    ]
    assert progress.seconds == 80.0


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
