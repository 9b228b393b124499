import dataclasses

import numpy as np
import pytest
from tiny_clips import SETTINGS, listed, run, write_clip

from input_pipeline import codecs, stages
from input_pipeline.estimate import estimate
from input_pipeline.quarantine import SetAside
from input_pipeline.schema import FLOW_METHODS, UserError
from input_pipeline.videos import read_video


def test_bound_of_a_still_video_is_not_zero(tmp_path):
    still = np.zeros((3, 32, 48, 3), np.uint8)
    encoded = stages.encode_video("still", still, dataclasses.replace(SETTINGS, bound_px="video"))
    records = encoded.records
    assert encoded.bound_px == 1e-3
    # Zero flow rounds to level 128 (half to even of 127.5), that is bound / 255.
    mean = codecs.parse_field(records["flow"][0])[-1]
    np.testing.assert_allclose(mean, 1e-3 / 255, rtol=1e-4)


def test_long_videos_are_cut_into_chunks_without_a_seam(tmp_path, monkeypatch):
    frames = read_video(write_clip(tmp_path / "clip.avi", frames=8), 32)
    settings = [dataclasses.replace(SETTINGS, backward=True, bound_px=bound) for bound in (8.0, "video")]
    whole = [stages.encode_video("clip", frames, each) for each in settings]
    assert [len(whole[0].records[folder]) for folder in ("rgb", "flow", "flow_backward")] == [8, 7, 7]
    for size in (1, 3, 7, 8):
        monkeypatch.setattr(stages, "_PAIRS_AT_ONCE", size)
        # A generator, as videos come: it can be passed once and has no length.
        assert [stages.encode_video("clip", (f for f in frames), each) for each in settings] == whole


def test_fingerprint_follows_what_records_depend_on(tmp_path):
    video = listed(tmp_path, ["clip"]).videos[0]
    missing = stages.fingerprint(video, SETTINGS)
    write_clip(video.path)
    base = stages.fingerprint(video, SETTINGS)
    changes = [{"short_side": 64}, {"method": "tvl1"}, {"bound_px": "video"}, {"backward": True}]
    others = {stages.fingerprint(video, dataclasses.replace(SETTINGS, **change)) for change in changes}
    assert len({missing, base} | others) == 6
    assert stages.fingerprint(video, dataclasses.replace(SETTINGS, processes=8, max_bad_fraction=0.0)) == base


def test_a_flow_method_that_refuses_the_frames_sets_the_video_aside(tmp_path):
    video = listed(tmp_path, ["small"]).videos[0]
    write_clip(video.path, size=(16, 16))
    aside = stages.prepare_video(video, tmp_path, dataclasses.replace(SETTINGS, short_side=8))
    assert aside.reason.startswith("flow.method dis fails on frames of 8x8 px (")


def test_a_video_that_does_not_fit_is_set_aside(tmp_path, monkeypatch):
    def fail(path, short_side):
        raise MemoryError

    monkeypatch.setattr(stages, "iterate_frames", fail)
    video = listed(tmp_path, ["huge"]).videos[0]
    assert stages.prepare_video(video, tmp_path, SETTINGS) == SetAside("too long for this machine's memory", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"short_side": 0}, "data.short_side: 0 px; give at least 1"),
        (
            {"method": "brox"},
            f"flow.method: 'brox' is unknown; choose one of {', '.join(FLOW_METHODS)}",
        ),
        ({"method": "none", "backward": True}, "flow.backward: True, but flow.method is none; turn one of them off"),
        ({"bound_px": 0.0}, "flow.bound_px: 0.0; give px per frame above 0, or 'video'"),
        ({"bound_px": float("nan")}, "flow.bound_px: nan; give px per frame above 0, or 'video'"),
        ({"bound_px": "clip"}, "flow.bound_px: 'clip'; give px per frame above 0, or 'video'"),
    ],
)
def test_senseless_settings_are_named(tmp_path, change, words):
    videos = listed(tmp_path, ["a"])
    settings = dataclasses.replace(SETTINGS, **change)
    for call in (lambda: run(videos, tmp_path / "r", settings), lambda: estimate(videos, settings)):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == words
    assert not (tmp_path / "r").exists()
