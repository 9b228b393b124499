import shutil

import pytest
from tiny_clips import SETTINGS, hashes, run, tiny_list, write_clip

from input_pipeline import prepare, shards, stages
from input_pipeline.schema import UserError
from input_pipeline.video_list import Video, VideoList


def test_shards_are_filled_in_order(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 10)
    # 4 + 6 fill one; 11 is too large for any and gets its own; 1 + 9 fill the next.
    assert shards.plan_shards([4, 6, 1, 11, 1, 9, 1]) == [0, 0, 1, 2, 3, 3, 4]


def test_a_name_longer_than_a_file_system_allows(tmp_path):
    write_clip(tmp_path / "clip.avi")
    long = "x" * 300
    video = Video(long, tmp_path / "clip.avi", 0, "g", {})
    videos = VideoList("tiny", "folder", ("left",), (), (video,))
    assert run(videos, tmp_path / "r").videos[0].name == long
    shutil.rmtree(tmp_path / "r")


def interrupt_at_merge(done, total, text):
    if text.startswith("merging"):
        raise KeyboardInterrupt


def test_a_damaged_leftover_is_named_and_made_anew(tmp_path):
    videos = tiny_list(tmp_path / "v", count=2)
    partial = tmp_path / "r" / ".partial"
    partial.mkdir(parents=True)
    for video in videos.videos:
        stages.prepare_video(video, partial, SETTINGS)
    # Cut short, as a power cut leaves it: found before the merge, all of them at once.
    for file in partial.glob("*.flow"):
        file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(videos, tmp_path / "r", SETTINGS, interrupt_at_merge)
    damaged = next(partial.glob("*.rgb"))
    content = bytearray(damaged.read_bytes())
    content[content.index(b"\xff\xd8\xff") + 200] ^= 255
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=r"\.partial: the rgb records of [ab]/clip\d are damaged; run again"):
        run(videos, tmp_path / "r")
    run(videos, tmp_path / "r")
    run(videos, tmp_path / "whole")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "whole")
