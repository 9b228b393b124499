"""The disk fills up while records are written: one line, nothing lost, and the same command continues."""

import dataclasses
import shutil

import pytest
from small_disk import small_disk
from tiny_clips import SETTINGS, hashes, listed, run, tiny_list, write_clip

from input_pipeline import estimate, prepare, shards
from input_pipeline.schema import UserError


@pytest.mark.parametrize(("processes", "step"), [(1, 24), pytest.param(2, 60, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_again_and_again(tmp_path, monkeypatch, processes, step):
    videos = tiny_list(tmp_path / "v", count=6)
    monkeypatch.setattr(shards, "SHARD_BYTES", 40_000)
    run(videos, tmp_path / "whole")
    refusals, kept = [], []
    with small_disk(tmp_path / "disk", 8) as resize:
        for kilobytes in range(8, 2000, step):
            resize(kilobytes)
            said = []
            try:
                settings = dataclasses.replace(SETTINGS, processes=processes)
                prepare.prepare(videos, tmp_path / "disk" / "r", settings, lambda *progress: None, said.append)
                break
            except UserError as error:
                refusals.append(str(error))
                kept.append(int(said[0].split()[0]) if said and "finished before" in said[0] else 0)
        assert hashes(tmp_path / "disk" / "r") == hashes(tmp_path / "whole")
    assert len(refusals) >= 3 and kept == sorted(kept) and kept[0] == 0 and kept[-1] == 6, kept
    for line in refusals:
        assert line.startswith(f"data.records: cannot write {tmp_path / 'disk' / 'r'} (") and "\n" not in line
        assert "No space left on device" in line and line.endswith("make room or mend the folder, and run again")


def test_a_disk_without_room_is_refused_before_any_work(tmp_path):
    videos = listed(tmp_path, ["a"])
    write_clip(tmp_path / "a.avi", frames=40)
    cost = estimate.estimate(videos, SETTINGS)
    with small_disk(tmp_path / "disk", 16):
        with pytest.raises(
            UserError, match=r"^data\.records=.*r: needs about 1 MB while it is prepared \(.*are free; make"
        ):
            estimate.check_room(tmp_path / "disk" / "deep" / "r", cost)
        # What lies there already need not be written again.
        done = tmp_path / "r"
        run(videos, done)
        free = shutil.disk_usage(tmp_path / "disk").free
        assert sum(file.stat().st_size for file in done.rglob("*") if file.is_file()) > 2e9 * cost.gigabytes - free > 0
    estimate.check_room(tmp_path / "deep" / "r", cost)
