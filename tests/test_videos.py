import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

from input_pipeline import videos
from input_pipeline.schema import UserError
from input_pipeline.videos import iterate_frames, probe_video, read_video, stored_size

# A 60x40 picture with a different colour in each quarter, RGB.
QUARTERS = np.zeros((40, 60, 3), np.uint8)
QUARTERS[:20, :30] = (200, 30, 60)
QUARTERS[:20, 30:] = (40, 180, 20)
QUARTERS[20:, :30] = (20, 50, 210)
QUARTERS[20:, 30:] = (120, 120, 120)


def write_video(path, frames, codec="HFYU"):
    """Write RGB frames; HFYU loses nothing but what the change to YUV rounds."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1].copy())
    writer.release()
    return path


def test_frames_are_rgb_in_order_and_right_side_up(tmp_path):
    frames = [QUARTERS, QUARTERS[::-1], QUARTERS[:, ::-1]]
    read = read_video(write_video(tmp_path / "a.avi", frames), 40)
    assert read.dtype == np.uint8 and read.shape == (3, 40, 60, 3)
    # One point in each quarter, away from the edges, where chroma mixes: one rounding to YUV and one back.
    points = np.ix_([5, 35], [5, 55])
    for got, wanted in zip(read, frames, strict=True):
        np.testing.assert_allclose(got[points].astype(int), wanted[points].astype(int), atol=3)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "wanted"),
    [
        (240, 320, 256, (256, 342)),  # 341.3: the even number next to it
        (1080, 1920, 256, (256, 456)),  # 455.1 lies nearer to 456 than to 454
        (1920, 1080, 256, (456, 256)),
        (64, 64, 63, (63, 63)),
        (100, 101, 63, (63, 64)),  # 63.6: an odd short side stays the shorter one
        (240, 320, 240, (240, 320)),
    ],
)
def test_stored_size(height, width, short_side, wanted):
    assert stored_size(height, width, short_side) == wanted


def test_shrinking_averages_and_equal_size_touches_nothing(tmp_path):
    # One-pixel checks: every 2x2 block averages to 127.5, where point sampling would give stripes of 0 and 255.
    checks = np.indices((64, 96)).sum(axis=0) % 2 * 255
    frame = np.repeat(checks.astype(np.uint8)[..., None], 3, axis=2)
    path = write_video(tmp_path / "checks.avi", [frame], codec="FFV1")
    np.testing.assert_array_equal(read_video(path, 64)[0], frame)
    shrunk = read_video(path, 32)[0]
    assert shrunk.shape == (32, 48, 3)
    assert set(np.unique(shrunk)) <= {127, 128}


def test_enlarging_interpolates(tmp_path):
    ramp = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None], 20, axis=0).repeat(3, axis=2)
    enlarged = read_video(write_video(tmp_path / "ramp.avi", [ramp], codec="FFV1"), 40)[0]
    assert enlarged.shape == (40, 60, 3)
    # Linear between neighbours 8 apart, at quarters: steps of 4 where nearest would alternate 0 and 8.
    np.testing.assert_array_equal(np.diff(enlarged[20, 1:-1, 0].astype(int)), 4)


def test_a_size_that_changes_half_way_keeps_the_first(tmp_path):
    path = tmp_path / "two_sizes.mjpeg"
    sizes = [(48, 64), (48, 64), (24, 32)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", np.full((*s, 3), 100, np.uint8))[1].tobytes() for s in sizes))
    assert read_video(path, 48).shape == (3, 48, 64, 3)


def test_iterate_frames_gives_what_read_video_stacks(tmp_path):
    path = write_video(tmp_path / "a.avi", [QUARTERS, QUARTERS[::-1]])
    frames = list(iterate_frames(path, 30))
    np.testing.assert_array_equal(np.stack(frames), read_video(path, 30))


@pytest.mark.parametrize(
    ("clip", "frames", "claimed"),
    [
        ("opencv/tree.avi", 68, 444),
        ("decord/corrupted.mp4", 28, 50),
        ("ava/Gt61_Yekkgc_1146.avi", 75, 90),
        ("decord/unordered.mov", 4, 4),
    ],
)
def test_frames_are_counted_by_decoding(data_dir, clip, frames, claimed):
    path = data_dir / "oddities" / clip
    assert len(read_video(path, 32)) == frames
    assert probe_video(path)[0] == claimed


@pytest.mark.parametrize(("angle", "shape"), [(0, (32, 56)), (90, (56, 32)), (180, (32, 56)), (270, (56, 32))])
def test_rotation_metadata_is_obeyed(data_dir, angle, shape):
    assert read_video(data_dir / "oddities" / "decord" / f"video_{angle}.mov", 32).shape == (3, *shape, 3)


def test_probe_states_rate_and_size(tmp_path):
    path = write_video(tmp_path / "a.avi", [QUARTERS] * 5)
    assert probe_video(path) == (5, 25.0, 60, 40)


@pytest.mark.parametrize("read", [lambda path: read_video(path, 32), probe_video])
def test_files_that_are_no_videos_are_named(tmp_path, read):
    missing, empty, text = tmp_path / "missing.avi", tmp_path / "empty.avi", tmp_path / "text.avi"
    empty.touch()
    text.write_text("not a video")
    for path, reason in [
        (missing, "no such file"),
        (empty, "the file is empty"),
        (text, "cannot be opened as a video"),
        (tmp_path, "no such file"),
    ]:
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == f"{path}: {reason}"


def test_a_video_without_frames_is_named(tmp_path):
    path = write_video(tmp_path / "none.avi", [QUARTERS][:1])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (60, 40))
    writer.release()
    with pytest.raises(UserError, match=r"none\.avi: holds no frame that can be decoded"):
        read_video(path, 32)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (16000, 16000, "has frames of 16000x16000 px, more than 35,651,584 px each"),
        (60000, 2, "has frames of 60000x2 px, stored 960000 px long: more than 65500"),
        (60000, 60000, "cannot be opened as a video"),  # FFmpeg's own limit
    ],
)
def test_a_header_that_claims_enormous_frames_is_refused_before_decoding(tmp_path, width, height, reason):
    path = write_video(tmp_path / "a.avi", [QUARTERS])
    stored, claimed = (struct.pack("<II", *size) for size in ((60, 40), (width, height)))
    data = path.read_bytes()
    assert data.count(stored) >= 2  # once in the AVI's header, once in the stream's
    path.write_bytes(data.replace(stored, claimed))
    with pytest.raises(UserError) as error:
        read_video(path, 32)
    assert str(error.value) == f"{path}: {reason}"


def test_the_largest_frame_is_8192_by_4352(tmp_path, monkeypatch):
    assert videos.MAX_FRAME_PX == 8192 * 4352
    path = write_video(tmp_path / "a.avi", [QUARTERS])
    monkeypatch.setattr(videos, "MAX_FRAME_PX", 60 * 40)
    assert read_video(path, 32).shape == (1, 32, 48, 3)
    monkeypatch.setattr(videos, "MAX_FRAME_PX", 60 * 40 - 1)
    with pytest.raises(UserError, match=r"a\.avi: has frames of 60x40 px"):
        read_video(path, 32)


def test_an_opencv_failure_while_decoding_is_named(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", [QUARTERS])

    def fail(*args):
        raise cv2.error("broken")

    monkeypatch.setattr(cv2, "cvtColor", fail)
    with pytest.raises(UserError, match=r"a\.avi: cannot be decoded"):
        read_video(path, 32)


def test_damaged_files_leave_the_terminal_quiet(data_dir, tmp_path):
    text = tmp_path / "text.avi"
    text.write_text("not a video")
    code = (
        "import sys\nfrom input_pipeline.videos import read_video\n"
        "assert len(read_video(sys.argv[1], 32)) == 28\n"
        "try:\n    read_video(sys.argv[2], 32)\nexcept ValueError:\n    print('refused')\n"
    )
    clip = data_dir / "oddities" / "decord" / "corrupted.mp4"
    done = subprocess.run([sys.executable, "-c", code, clip, text], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
