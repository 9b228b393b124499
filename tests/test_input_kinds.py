"""Which frames and fields each kind of input reads: records whose fields and frames say their own number."""

import dataclasses

import numpy as np
import pytest
from tiny_clips import SETTINGS, listed, write_clip

from input_pipeline import opencv_flow, prepare, sampling, stages, store, transforms
from input_pipeline.filling import FillingThreads
from input_pipeline.schema import dequantise_flow

FRAMES = 12
BOUND_PX = 60.0  # a level is .47 px, so whole numbers stay apart


def numbered_flow(sources, targets, method):
    """Flow between frames that are grey at 20 times their number: d^x is that of the frame it belongs to.

    Forward from 1 + frame, d^y = d^x / 2; backward from -1 - frame, so that no forward field is like it.
    """
    numbers, others = (np.rint(frames.mean(axis=(1, 2)) / 20) for frames in (sources, targets))
    backward = others[0] < numbers[0]
    assert np.array_equal(others, numbers - 1 if backward else numbers + 1)
    values = -1 - numbers if backward else 1 + numbers
    flow = np.empty((*sources.shape, 2), np.float32)
    flow[..., 0], flow[..., 1] = values[:, None, None], values[:, None, None] / 2
    return flow


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Records of one video of 12 frames (48 x 60 px) and one of 4, frame i of which is grey at about 20 i."""
    folder = tmp_path_factory.mktemp("numbered")
    videos = listed(folder, ["a/long", "a/short"])
    for video in videos.videos:
        write_clip(video.path)

    def frames(path, short_side):
        count = FRAMES if "long" in str(path) else 4
        return (np.full((48, 60, 3), 20 * i, np.uint8) for i in range(count))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opencv_flow, "flow_of_pairs", numbered_flow)
        patch.setattr(stages, "iterate_frames", frames)
        settings = dataclasses.replace(SETTINGS, backward=True, bound_px=BOUND_PX, short_side=48)
        prepare.prepare(videos, folder / "records", settings, lambda *_: None)
    records = store.Records(folder / "records")
    assert [video.frames for video in records.videos] == [FRAMES, 4]
    return records


def fields_of(batch, b=0, t=0):
    """Return the numbers of the fields of a stack by their d^x; d^y and the stored mean must agree."""
    flow = dequantise_flow(batch["flow"][b, t], float(batch["bound"][b]))
    numbers = np.rint(flow[:, 0].mean(axis=(1, 2)))
    np.testing.assert_allclose(flow[:, 0], np.broadcast_to(numbers[:, None, None], flow[:, 0].shape), atol=0.25)
    np.testing.assert_allclose(flow[:, 1], flow[:, 0] / 2, atol=0.5)
    np.testing.assert_allclose(batch["mean"][b, t, :, 0], numbers, atol=0.25)
    return numbers.tolist()


def read(records, anchor, *, video=0, streams=("flow",), stack=4, offset=0, **options):
    window = transforms.Window(streams, stack, offset, 48, 60, **options)
    return transforms.read_windows([records], [0], [video], [anchor], [0], [0], window, FillingThreads(1))


def test_a_stack_holds_the_fields_from_the_anchor_on(numbered):
    """Eq. 1: fields t, t + 1, ..., t + L - 1."""
    assert fields_of(read(numbered, 3)) == [4, 5, 6, 7]
    assert fields_of(read(numbered, 7)) == [8, 9, 10, 11]
    assert fields_of(read(numbered, 5, offset=-2)) == [4, 5, 6, 7]


def test_both_directions_meet_at_the_anchor(numbered):
    """Sect. 3.1: forward fields of frames t .. t + L/2 - 1, backward ones of frames t, t - 1, ..., t - L/2 + 1."""
    # Forward from frames 5, 6, 7; backward from frames 5, 4, 3, which reaches frame 2.
    assert fields_of(read(numbered, 5, stack=6, bidirectional=True)) == [6, 7, 8, -6, -5, -4]
    assert fields_of(read(numbered, 1, stack=2, bidirectional=True)) == [2, -2]


def test_the_anchors_of_both_directions_are_the_frames_whose_fields_exist(numbered):
    """Brute force: none clamped at the span's ends, and one further something is."""
    before, after = sampling.anchor_span(("flow",), 6, 0, bidirectional=True)
    assert (before, after) == (3, 3)
    exact = []
    for anchor in range(FRAMES):
        wanted = [anchor + 1 + k for k in range(3)] + [-1 - anchor + k for k in range(3)]
        if fields_of(read(numbered, anchor, stack=6, bidirectional=True)) == wanted:
            exact.append(anchor)
    positions = sampling.eval_positions(FRAMES, before, after, count=len(exact))
    assert positions.tolist() == exact == [3, 4, 5, 6, 7, 8]


def test_short_videos_are_clamped_in_both_directions(numbered):
    # Four frames: forward fields of frames 0, 1, 2; backward ones of frames 1, 2, 3. The middle frame is the anchor.
    (anchor,) = set(sampling.eval_positions(4, 3, 3, count=5))
    assert anchor == 1
    assert fields_of(read(numbered, 1, video=1, stack=6, bidirectional=True)) == [2, 3, 3, -2, -2, -2]


def test_a_clip_begins_at_its_anchor(numbered):
    grey = read(numbered, 2, streams=("rgb",), clip_frames=5)["rgb"][0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey, [40, 60, 80, 100, 120], atol=1)
    grey = read(numbered, 0, video=1, streams=("rgb",), clip_frames=6)["rgb"][0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey, [0, 20, 40, 60, 60, 60], atol=1)


def test_each_frame_of_a_clip_has_its_stack(numbered):
    batch = read(numbered, 2, streams=("rgb", "flow"), stack=2, clip_frames=3)
    np.testing.assert_allclose(batch["rgb"][0].mean(axis=(1, 2, 3)), [40, 60, 80], atol=1)
    assert [fields_of(batch, t=t) for t in range(3)] == [[3, 4], [4, 5], [5, 6]]


@pytest.mark.parametrize(
    ("streams", "stack", "bidirectional", "clip_frames", "span"),
    [
        (("flow",), 10, True, 1, (5, 5)),
        (("flow",), 2, True, 1, (1, 1)),
        (("rgb",), 10, True, 1, (0, 0)),
        (("rgb",), 10, False, 11, (0, 10)),  # frames t .. t + 10
        (("rgb", "flow"), 10, False, 3, (0, 12)),  # frame t + 2's last field reaches frame t + 12
        (("rgb", "flow"), 10, True, 3, (5, 7)),
    ],
)
def test_spans(streams, stack, bidirectional, clip_frames, span):
    assert sampling.anchor_span(streams, stack, 0, bidirectional, clip_frames) == span
