"""--annotate: which frame stands where in the MP4, and what becomes of it when something fails."""

import cv2
import numpy as np
import pytest
from tiny_clips import SETTINGS, listed, run

from input_pipeline.schema import UserError, dequantise_flow
from input_pipeline.store import Records
from twostream_jax.drivers import annotate
from twostream_jax.drivers.annotate import Annotation, columns
from twostream_jax.report.annotated import GAP, NO_FLOW, Layout, rim_px
from twostream_jax.report.flow_colour import flow_to_colour

SIDE = 8 * 32  # px of a frame of 32 px as it is shown
ANSWER = {
    "streams": {"spatial": {"top": [{"class": "left", "probability": 0.9}, {"class": "right", "probability": 0.1}]}}
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of ten frames: a red texture that moves 2 px right a frame, ever brighter blue."""
    folder = tmp_path_factory.mktemp("annotate")
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (32, 52), np.uint8), (0, 0), 2)
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    for i in range(10):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[..., 0], frame[..., 2] = (
            20 * i,
            cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)[:, 20 - 2 * i :][:, :32],
        )
        writer.write(frame)
    writer.release()
    run(listed(folder, ["a"]), folder / "flow")
    run(listed(folder, ["a"]), folder / "rgb", method="none")
    return {name: Records(folder / name) for name in ("flow", "rgb")}


def pictures(path) -> np.ndarray:
    """Return the pictures of a video, RGB."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return np.stack(found)


def halves(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frames and flows as float, of pictures [n, H, W, 3]; the legend left out."""
    return shown[:, :SIDE, :SIDE].astype(float), shown[:, :160, SIDE + GAP : 2 * SIDE + GAP].astype(float)


def enlarged(images):
    return images.repeat(8, axis=1).repeat(8, axis=2).astype(float)


def whole_video(path, records, rate=25.0):
    annotation, done = Annotation(path), []
    with annotation.writing(rate):
        annotation.draw(records, 10, [i / rate for i in range(10)], ANSWER, on_progress=done.append)
        annotation.finish()
    return done


@pytest.mark.parametrize("rate", [25.0, 30000 / 1001, 12.5, 90.123456])
def test_every_frame_stands_beside_the_flow_that_was_scored(records, tmp_path, rate):
    done = whole_video(tmp_path / "out.mp4", records["flow"], rate)
    assert done[-1] == 10 and done == sorted(done)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, abs=0.1 if rate > 65 else 5e-3)
    shown = pictures(tmp_path / "out.mp4")
    assert len(shown) == 10 and shown.shape[1] % 2 == shown.shape[2] % 2 == 0
    frames, flows = halves(shown)
    levels, _, bound = records["flow"].flow(0, 0, 9)
    fields = dequantise_flow(levels, bound)
    rim = rim_px(fields[:, ::4, ::4], bound)
    wanted = np.stack([flow_to_colour(field, rim) for field in fields])
    assert abs(enlarged(records["flow"].frames(0, range(10))) - frames).mean() < 8  # of the codec
    assert abs(enlarged(wanted)[:, :160] - flows[:9]).mean() < 8
    assert abs(flows[9] - NO_FLOW).mean() < 4
    # It is red that moves to the right, which is red on the wheel; blue grows.
    assert frames[0, ..., 0].mean() > 80 > frames[0, ..., 2].mean() and frames[9, ..., 2].mean() > 140
    assert flows[:9, ..., 0].mean() > flows[:9, ..., 1:].mean() + 60


def test_pieces_give_the_same_video(records, tmp_path):
    """As hops come: three frames of the one before lead in, and its last one waits for its field."""
    whole_video(tmp_path / "whole.mp4", records["flow"])

    class Part:
        def __init__(self, first, stop):
            self.first, whole = first, records["flow"]
            self.videos = [type("V", (), {**vars(whole.videos[0]), "frames": stop - first})]

        def frames(self, video, indices):
            return records["flow"].frames(video, [i + self.first for i in indices])

        def flow(self, video, i, count):
            assert i + count < self.videos[0].frames
            return records["flow"].flow(video, i + self.first, count)

    annotation = Annotation(tmp_path / "parts.mp4")
    with annotation.writing(25.0):
        # The scale is that of the first piece.
        annotation.draw(Part(0, 5), 5, [i / 25 for i in range(5)], ANSWER)
        annotation.draw(Part(2, 8), 3, [i / 25 for i in range(5, 8)], ANSWER)
        annotation.draw(Part(5, 10), 2, [i / 25 for i in range(8, 10)], ANSWER)
        annotation.finish()
    one, other = (pictures(tmp_path / f"{name}.mp4").astype(float) for name in ("whole", "parts"))
    assert len(one) == len(other) == 10
    assert abs(halves(one)[0] - halves(other)[0]).mean() < 2
    assert abs(halves(one)[1] - halves(other)[1]).mean() < 16 and abs(halves(other)[1][9] - NO_FLOW).mean() < 4
    assert (abs(halves(other)[1][:9] - NO_FLOW).mean(axis=(1, 2, 3)) > 30).all()


def test_missing_frames_stand_still_and_crowded_ones_are_left_out(records, tmp_path):
    annotation = Annotation(tmp_path / "out.mp4")
    with annotation.writing(10.0):
        # Two arrive within one place of 100 ms, then there is a gap of three.
        annotation.draw(records["rgb"], 10, [0, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0, 1.1], ANSWER)
        annotation.finish()
    shown = pictures(tmp_path / "out.mp4")
    frames = shown[:, :SIDE, :SIDE].astype(float)
    assert shown.shape[2] == SIDE  # no flow, no second panel
    blue = frames[..., 2].mean(axis=(1, 2)) / 20
    np.testing.assert_allclose(blue, [0, 1, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9], atol=0.6)


def test_a_new_beginning_draws_what_waited_without_flow(records, tmp_path):
    annotation = Annotation(tmp_path / "out.mp4")
    with annotation.writing(25.0):
        for start in (0, 10):
            annotation.draw(records["flow"], 10, [(start + i) / 25 for i in range(10)], ANSWER)
        annotation.finish()
    _, flows = halves(pictures(tmp_path / "out.mp4"))
    grey = abs(flows - NO_FLOW).mean(axis=(1, 2, 3)) < 4
    assert np.flatnonzero(grey).tolist() == [9, 19]


def test_what_fails_leaves_nothing_and_keeps_what_was_there(records, tmp_path, monkeypatch):
    (tmp_path / "out.mp4").write_text("an older one")
    annotation = Annotation(tmp_path / "out.mp4")
    with pytest.raises(RuntimeError), annotation.writing(25.0):
        annotation.draw(records["flow"], 10, [i / 25 for i in range(10)], ANSWER)
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    monkeypatch.setattr(annotate, "_working_codec", lambda path: "mp4v")
    monkeypatch.setattr(annotate, "_count_frames", lambda path: 1)
    with pytest.raises(UserError, match=r"out\.mp4: 1 of 10 frames can be read again; see whether the disk is full"):
        whole_video(tmp_path / "out.mp4", records["flow"])
    monkeypatch.undo()
    monkeypatch.setattr(annotate.os, "replace", refuse)
    with pytest.raises(UserError, match=r"out\.mp4: cannot be written \(No room\)"):
        whole_video(tmp_path / "out.mp4", records["flow"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "an older one"


def refuse(*_):
    raise OSError(5, "No room")


def test_nothing_drawn_is_no_video(tmp_path):
    annotation = Annotation(tmp_path / "out.mp4")
    with annotation.writing(25.0):
        annotation.finish()
    assert not list(tmp_path.iterdir())


def test_the_second_codec_is_taken_where_the_first_does_not_work(records, tmp_path, monkeypatch):
    assert annotate.CODECS == ("avc1", "mp4v")
    monkeypatch.setattr(annotate, "CODECS", ("zzzz", "mp4v"))
    assert Annotation(tmp_path / "out.mp4")._codec == "mp4v"
    monkeypatch.setattr(annotate, "CODECS", ("zzzz",))
    with pytest.raises(
        UserError, match=r"--annotate=.*: OpenCV writes none of zzzz there; see whether the disk is full"
    ):
        Annotation(tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    annotation = Annotation(tmp_path / "out.mp4")
    monkeypatch.setattr(annotation, "_codec", "zzzz")
    with pytest.raises(UserError, match=r"OpenCV writes no \d+x\d+ px at 25.0 per second"), annotation.writing(25.0):
        annotation.draw(records["flow"], 10, [i / 25 for i in range(10)], ANSWER)


@pytest.mark.parametrize("name", ["out.avi", "out", "no/out.mp4", "folder.mp4", "\udc80.mp4"])
def test_a_place_that_cannot_be_is_one_line(name, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match=r"^--annotate=.*(must be a \.mp4 in a folder that exists|is not UTF-8)"):
        Annotation(tmp_path / name)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch):
    """Simulated, since tests may run as root, who may write anywhere."""
    monkeypatch.setattr(annotate.os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"--annotate=.*out\.mp4: .* cannot be written to; name another folder"):
        Annotation(tmp_path / "out.mp4")


def test_columns_are_streams_tasks_and_what_is_fused():
    top = [{"class": "a", "probability": 0.75}, {"class": "b", "probability": 0.25}]
    answer = {
        "streams": {
            "spatial": {"workdir": "x", "checkpoint": 1, "tasks": {"one": top, "two": top[:1]}},
            "temporal": {"top": top},
        },
        "fused": {"method": "average", "top": top[:1]},
    }
    pairs = [("a", 0.75), ("b", 0.25)]
    assert columns(answer) == [
        ("spatial, one", pairs), ("spatial, two", pairs[:1]), ("temporal", pairs), ("fused", pairs[:1]),
    ]  # fmt: skip
    assert Layout(32, 32, True).panel_width == 2 * SIDE + GAP and SETTINGS.short_side == 32


def test_no_other_file_of_the_folder_is_touched(records, tmp_path):
    theirs = [tmp_path / name for name in ("out.part.mp4", ".out.mp4", "out.mp4.tmp")]
    for file in theirs:
        file.write_bytes(b"mine")
    whole_video(tmp_path / "out.mp4", records["flow"])
    assert all(file.read_bytes() == b"mine" for file in theirs)
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", *(file.name for file in theirs)}
