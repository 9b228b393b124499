"""What flow is like, and flow to a frame without the camera's motion: by hand, and as records keep it."""

import dataclasses

import cv2
import numpy as np
import pytest
from tiny_clips import SETTINGS, run, tiny_list

from input_pipeline import camera_motion, fields
from input_pipeline.dataset_file import read_dataset
from input_pipeline.flow_facts import FlowFacts, FlowSums, facts_of_all
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import quantise_flow
from input_pipeline.store import Records


def test_sums_by_hand():
    sums = FlowSums()
    assert sums.facts() is None
    sums.add(np.float32([[[3, 4], [0, 0]], [[-6, 8], [0, 5]]]), 5.0)  # lengths 5, 0, 10, 5; one is clipped
    assert sums.facts() == FlowFacts(5.0, 0.25)
    sums.add(np.zeros((2, 2, 2), np.float32), 5.0)
    assert sums.facts() == FlowFacts(2.5, 0.125)


def test_stored_levels_give_nearly_the_same():
    flow = np.random.default_rng(0).normal(0, 3, (40, 60, 2)).astype(np.float32)
    exact, stored = FlowSums(), FlowSums()
    exact.add(flow, 8.0)
    stored.add_levels(quantise_flow(flow, 8.0).transpose(2, 0, 1), 8.0)
    assert stored.facts().mean_px == pytest.approx(exact.facts().mean_px, rel=0.01)
    # What lies within half a level of the bound is stored at it too.
    assert exact.facts().clipped <= stored.facts().clipped <= exact.facts().clipped + 0.002


def test_all_videos_count_by_their_vectors():
    some, more = FlowFacts(1.0, 0.0), FlowFacts(4.0, 0.5)
    assert facts_of_all([(some, 300), (more, 100)]) == FlowFacts(1.75, 0.125)
    assert facts_of_all([(some, 300), (None, 0)]) == some
    assert facts_of_all([(some, 300), (None, 100)]) is None
    assert facts_of_all([]) is None


@pytest.mark.parametrize("backward", [False, True])
def test_dataset_json_says_what_the_flow_is_like(tmp_path, backward):
    made = run(tiny_list(tmp_path / "v"), tmp_path / "r", bound_px=1.5, backward=backward)
    assert read_dataset(tmp_path / "r") == made
    records, everything = Records(tmp_path / "r"), FlowSums()
    for position, video in enumerate(records.videos):
        frames = records.frames(position, range(video.frames))
        sums = FlowSums()
        for way in (False, True)[: 1 + backward]:
            for field in compute_flow(frames, "dis", way):
                sums.add(field, 1.5)
                everything.add(field, 1.5)
        # The frames are JPEGs here and were not when the flow was computed.
        assert video.flow_facts.mean_px == pytest.approx(sums.facts().mean_px, rel=0.03)
        assert video.flow_facts.clipped == pytest.approx(sums.facts().clipped, abs=0.03)
    assert made.flow_facts.mean_px == pytest.approx(everything.facts().mean_px, rel=0.03)
    assert 1.5 < made.flow_facts.mean_px < 2.5 and made.flow_facts.clipped > 0.5  # the clips move two px a frame


def panned_over_a_ball(count=5):
    """Frames [F, 96, 128] of a texture that the camera pans over, 3 px right and 1 px down a frame, and a ball's mask.

    The ball moves 2 px up on the ground a frame.
    """
    rng = np.random.default_rng(3)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (140, 180), np.uint8), (0, 0), 1.5)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    ball = cv2.normalize(
        cv2.GaussianBlur(rng.integers(0, 256, (24, 24), np.uint8), (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX
    )
    frames = []
    for t in range(count):
        scene = ground.copy()
        scene[60 - 2 * t : 84 - 2 * t, 70:94] = ball
        frames.append(scene[t : t + 96, 3 * t : 3 * t + 128])
    return np.stack(frames)


@pytest.mark.parametrize("backward", [False, True])
def test_fields_without_the_cameras_motion(backward):
    frames = panned_over_a_ball()
    settings = dataclasses.replace(SETTINGS, bound_px=8.0, backward=backward, camera_compensation=True)
    found = {}
    starter = fields.opencv_starter("dis")

    def spy(sources, targets, both):
        assert not both
        wait = starter(sources, targets, both)
        found[len(found)] = sources, wait()[0]
        return wait

    made = fields.Fields("clip", settings, spy)
    made.add(frames[:3])
    made.add(frames[2:])
    records = made.finish()
    assert {folder: len(own) for folder, own in records.items()} == dict.fromkeys(settings.folders[1:], 4)
    for i, (sources, flow) in found.items():
        turned = backward and i % 2 == 1
        for n in range(2):
            # Where the ball stands in the source frame: one field later, for backward flow.
            t = 2 * (i // (1 + backward)) + n + turned
            assert np.array_equal(sources[n], frames[t])
            inside = np.s_[60 - 3 * t + 5 : 84 - 3 * t - 5, 70 - 3 * t + 5 : 94 - 3 * t - 5]
            vector = np.median(flow[n][inside].reshape(-1, 2), axis=0)
            np.testing.assert_allclose(vector, [0, 2 if turned else -2], atol=0.3)
            around = np.ones((96, 128), bool)
            around[60 - 3 * t - 12 : 84 - 3 * t + 12, 70 - 3 * t - 12 : 94 - 3 * t + 12] = False
            around[:6], around[-6:], around[:, :8], around[:, -8:] = False, False, False, False
            assert np.linalg.norm(flow[n][around], axis=-1).mean() < 0.15
    assert camera_motion.homography(frames[0], frames[1])[:2, 2] == pytest.approx([-3, -1], abs=0.3)
