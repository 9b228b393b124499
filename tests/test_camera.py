"""A camera that is a script: frames by number, a clock that it moves itself."""

import threading
import time

import cv2
import numpy as np
import pytest
from tiny_clips import write_clip

from input_pipeline import camera
from input_pipeline.camera import Camera
from input_pipeline.schema import UserError


class Script:
    """Stands in for cv2.VideoCapture: `count` frames of one value each, 40 ms apart by the clock that it is."""

    def __init__(self, count, rate=25.0, opened=True, before_read=lambda number: None):
        self.count, self.rate, self.opened, self.before_read = count, rate, opened, before_read
        self.number, self.now, self.released = 0, 100.0, False

    def __call__(self):
        return self.now

    def isOpened(self):
        return self.opened

    def get(self, what):
        return self.rate if what == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        self.before_read(self.number)
        if self.number >= self.count:
            return False, None
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[..., 0] = self.number  # blue
        self.number += 1
        self.now += 0.04
        return True, frame

    def release(self):
        self.released = True


def watch(monkeypatch, script, **settings) -> Camera:
    monkeypatch.setattr(camera, "open_capture", lambda source: script)
    return Camera("0", (6,), **{"hop_s": 0.2, "lead": 2, "clock": script} | settings)


def values(moments):
    return [int(moment.frames[6][0, 0, 2]) for moment in moments]


def test_frames_keep_their_arrival_times_and_become_rgb(monkeypatch):
    script = Script(6)
    source = watch(monkeypatch, script)
    assert (source.rate, source.total) == (25.0, None)
    assert values([source.first()]) == [0] and script.number == 1
    found = list(source.moments())
    # The one that was seen at opening is not shown: time has passed since.
    assert values(found) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([moment.start_s for moment in found], [0, 0.04, 0.08, 0.12, 0.16], atol=1e-9)
    assert found[0].frames[6].shape == (6, 8, 3) and found[0].frames[6][..., :2].max() == 0
    assert all(moment.follows for moment in found) and source.dropped == 0
    source.close()
    assert script.released


def test_what_nobody_takes_in_time_is_dropped_and_counted(monkeypatch):
    """Nobody takes one until 40 were read: what is left is a lead of 2 and a hop of .2 s, and begins with a gap."""
    source = watch(monkeypatch, Script(41))
    source._thread.run()
    found = list(read_already(source))
    assert values(found) == list(range(33, 41)) and source.dropped == 32
    assert [moment.follows for moment in found] == [False] + 7 * [True]
    # Two that lead in, and five intervals of .04 s.
    assert found[-1].end_s - found[2].start_s == pytest.approx(0.2)


def read_already(source):
    """Yield what is in the queue of a camera whose thread has ended."""
    source._thread = threading.Thread(target=lambda: None)
    return source.moments()


def test_it_ends_after_its_seconds(monkeypatch):
    source = watch(monkeypatch, Script(10**6), seconds=0.2, hop_s=10.0)
    assert values(source.moments()) == [1, 2, 3, 4, 5]


def test_a_stop_ends_the_waiting(monkeypatch):
    """A camera that hangs is let go of, too."""
    asked, hangs = [], threading.Event()
    script = Script(10**6, before_read=lambda number: number == 1 and hangs.wait(20))
    source = watch(monkeypatch, script)
    assert list(source.moments(lambda: len(asked) > 2 or asked.append(1))) == []
    hangs.set()
    source.close()
    assert script.released and not source._thread.is_alive()


def test_an_unused_camera_is_let_go(monkeypatch):
    script = Script(3)
    watch(monkeypatch, script).close()
    assert script.released


def test_a_file_stands_for_a_camera_at_its_own_rate(tmp_path):
    path = write_clip(tmp_path / "a.avi", frames=6, size=(32, 48))
    begun = time.monotonic()
    source = Camera(str(path), (32,), hop_s=1.0, lead=2)
    found = list(source.moments())
    source.close()
    assert len(found) == 6 and time.monotonic() - begun >= 5 / 25
    assert all(moment.start_s >= i / 25 for i, moment in enumerate(found))


def raising(source):
    raise cv2.error("broken")


@pytest.mark.parametrize(
    ("name", "opener", "line"),
    [
        (
            "7",
            lambda source: Script(1, opened=False),
            "--camera=7: there is no such camera, or it is in use; name a camera",
        ),
        ("0", lambda source: Script(0), "--camera=0: gives no frame; see whether another program uses it"),
        ("rtsp://x", raising, "--camera=rtsp://x: cannot be opened (None); name a camera by its number"),
        ("\udc80", raising, "is not UTF-8; name a camera by its number"),
    ],
)
def test_no_camera_is_one_line(name, opener, line, monkeypatch):
    monkeypatch.setattr(camera, "open_capture", opener)
    with pytest.raises(UserError) as refused:
        Camera(name, (32,), hop_s=1.0, lead=2)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_capture_that_fails_half_way_ends_the_stream(monkeypatch):
    def fail(number):
        if number == 3:
            raise cv2.error("unplugged")

    source = watch(monkeypatch, Script(9, before_read=fail))
    assert values(source.moments()) == [1, 2]


@pytest.mark.parametrize(("name", "kind"), [("3", int), ("/dev/video9", str)])
def test_a_number_is_a_camera_and_anything_else_a_name(name, kind, monkeypatch):
    seen = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *source: seen.append(source))
    camera.open_capture(name)
    assert seen == [(kind(name),)]
