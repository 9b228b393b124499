import dataclasses
import os

import pytest
from tiny_clips import SETTINGS, listed, tiny_list, write_clip

from input_pipeline import estimate, stages
from input_pipeline.schema import UserError
from input_pipeline.videos import read_video


def test_estimate_counts_by_the_containers(tmp_path, monkeypatch):
    videos = tiny_list(tmp_path / "v")
    found = estimate.estimate(videos, SETTINGS)
    assert (found.videos, found.frames, found.pairs) == (4, 22, 18)
    assert 0 < found.hours < 0.01
    stored = sum(map(record_bytes, videos.videos)) / 1e9
    # From three first pairs; the clips are of one kind.
    assert found.gigabytes == pytest.approx(stored, rel=0.15)
    assert estimate.estimate(videos, dataclasses.replace(SETTINGS, method="none")).pairs == 0
    # Of two probed videos, 4 and 6 frames, the sum is scaled to all four.
    monkeypatch.setattr(estimate, "_PROBED_VIDEOS", 2)
    assert estimate.estimate(videos, SETTINGS).frames == 20


def record_bytes(video):
    records = stages.encode_video(video.name, read_video(video.path, 32), SETTINGS).records
    return sum(len(record) for content in records.values() for record in content)


def test_estimate_passes_over_bad_videos(tmp_path):
    names = ["bad", "one", "good"]
    write_clip(tmp_path / "one.avi", frames=1)
    write_clip(tmp_path / "good.avi", frames=5)
    found = estimate.estimate(listed(tmp_path, names), SETTINGS)
    assert (found.videos, found.frames, found.pairs) == (3, 6, 4)


def test_estimate_without_a_readable_video_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^data\.videos: none of 2 videos can be read; one of them: .*b\.avi: no such"):
        estimate.estimate(listed(tmp_path, ["a", "b"]), SETTINGS)


def test_zero_processes_means_one_a_core():
    settings = dataclasses.replace(SETTINGS, processes=0)
    assert 1 <= estimate.processes(settings) <= os.cpu_count()
    assert estimate.processes(dataclasses.replace(SETTINGS, processes=3)) == 3
