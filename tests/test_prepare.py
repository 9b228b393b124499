import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from tiny_clips import SETTINGS, hashes, listed, run, tiny_list, write_clip

from input_pipeline import prepare, shards, stages
from input_pipeline.dataset_file import read_dataset
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import UserError, dequantise_flow
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList
from input_pipeline.videos import read_video

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def weizmann_list(data_dir, actors=("0", "5")):
    root = data_dir / "weizmann4"
    rows = [line.split(",") for line in (root / "split.csv").read_text().split()[1:]]
    classes = ("bend", "jack", "wave1", "wave2")
    videos = [
        Video(path.removesuffix(".avi"), root / path, classes.index(label), actor, {"1": split})
        for path, label, actor, split in rows
        if actor in actors
    ]
    return VideoList("weizmann4", "csv", classes, ("1",), tuple(videos))


def test_stored_frames_and_flow_are_those_of_the_video(data_dir, tmp_path):
    videos = weizmann_list(data_dir)
    run(videos, tmp_path / "r", short_side=64, bound_px=20.0, backward=True)
    records = Records(tmp_path / "r")
    by_name = {video.name: video for video in videos.videos}
    assert [v.name for v in records.videos] == sorted(by_name)
    for position, stored in enumerate(records.videos):
        frames = read_video(by_name[stored.name].path, 64)
        assert stored.frames == len(frames)
        error = np.abs(records.frames(position, range(stored.frames)).astype(int) - frames)
        # JPEG halves the colours' resolution, so single pixels at edges differ; the mean does not.
        assert error.mean() < 2
        for backward in (False, True):
            flow = compute_flow(frames, "dis", backward)
            levels, means, bound_px = records.flow(position, 0, stored.pairs, backward)
            pixels = dequantise_flow(levels, bound_px)
            # A level is 40 / 255 = .157 px; rounding alone leaves .039 on the mean, JPEG adds about as much.
            assert np.abs(pixels - np.clip(flow, -20, 20)).mean() < 0.08
            np.testing.assert_allclose(means, pixels.mean(axis=(1, 2), dtype=np.float64), atol=4e-6)


def test_dataset_json_states_what_was_done(tmp_path):
    videos = tiny_list(tmp_path / "v")
    dataset = run(videos, tmp_path / "r")
    assert dataset == read_dataset(tmp_path / "r")
    assert (dataset.name, dataset.kind, dataset.classes, dataset.splits) == (
        "tiny",
        "folder",
        ("left", "right"),
        ("1",),
    )
    assert (dataset.streams, dataset.short_side, dataset.jpeg_quality) == (("rgb", "flow"), 32, 95)
    assert tuple(dataset.flow.plain().values()) == ("dis", 8.0, False, cv2.__version__)
    size = sum(path.stat().st_size for path in (tmp_path / "r").rglob("*array_record*"))
    # Clips of 4 + 5 + 6 + 7 frames.
    assert dataset.counts == {"videos": 4, "frames": 22, "pairs": 18, "quarantined": 0, "bytes": size}
    assert [(v.name, v.label, v.group, v.frames) for v in dataset.videos] == [
        ("a/clip0", 0, "g0", 4),
        ("a/clip2", 0, "g2", 6),
        ("b/clip1", 1, "g1", 5),
        ("b/clip3", 1, "g3", 7),
    ]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        ".lock",
        "dataset.json",
        "flow",
        "quarantine.jsonl",
        "rgb",
    ]
    assert (tmp_path / "r" / "quarantine.jsonl").read_text() == ""


def test_method_none_stores_rgb_only(tmp_path):
    names = ["one", "two"]
    for frames, name in enumerate(names, start=1):
        write_clip(tmp_path / f"{name}.avi", frames=frames)
    dataset = run(listed(tmp_path, names), tmp_path / "r", method="none")
    assert (dataset.streams, dataset.flow, dataset.counts["pairs"]) == (("rgb",), None, 0)
    assert [(v.frames, v.flow, v.bound_px) for v in dataset.videos] == [(1, None, None), (2, None, None)]
    assert not (tmp_path / "r" / "flow").exists()


def test_bound_video_is_the_largest_component_of_both_directions(tmp_path):
    path = write_clip(tmp_path / "clip.avi", frames=6)
    dataset = run(listed(tmp_path, ["clip"]), tmp_path / "r", bound_px="video", backward=True)
    frames = read_video(path, 32)
    largest = max(float(np.abs(compute_flow(frames, "dis", backward)).max()) for backward in (False, True))
    assert dataset.videos[0].bound_px == largest
    assert dataset.flow.bound_px == "video"


def test_processes_change_no_byte(tmp_path, monkeypatch):
    videos = tiny_list(tmp_path / "v", count=6)
    monkeypatch.setattr(shards, "SHARD_BYTES", 30_000)
    run(videos, tmp_path / "r1", backward=True)
    run(videos, tmp_path / "r2", backward=True, processes=2)
    one, two = hashes(tmp_path / "r1"), hashes(tmp_path / "r2")
    assert one == two
    assert sum(path.startswith("rgb/rgb-all") for path in one) > 1


def test_leftovers_of_other_settings_are_not_used(tmp_path):
    videos = tiny_list(tmp_path / "v")
    partial = tmp_path / "r" / ".partial"
    partial.mkdir(parents=True)
    for video in videos.videos:
        stages.prepare_video(video, partial, dataclasses.replace(SETTINGS, bound_px=4.0))
    run(videos, tmp_path / "r")
    run(videos, tmp_path / "fresh")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_a_finished_folder_is_left_alone(tmp_path, monkeypatch):
    names = ["a", "b", "empty"]
    for name in names[:2]:
        write_clip(tmp_path / f"{name}.avi")
    (tmp_path / "empty.avi").touch()
    videos = listed(tmp_path, names)
    dataset = run(videos, tmp_path / "r")
    (tmp_path / "r" / ".partial").mkdir()  # killed just before it was removed
    before = hashes(tmp_path / "r")
    monkeypatch.setattr(stages, "iterate_frames", None)
    said = []
    assert prepare.prepare(videos, tmp_path / "r", SETTINGS, lambda *progress: said.append(progress)) == dataset
    assert said == [(3, 3, f"nothing to do, {tmp_path / 'r'} is complete")]
    assert hashes(tmp_path / "r") == before and not (tmp_path / "r" / ".partial").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"short_side": 64}, "data.short_side is 32 there and 64 now"),
        ({"method": "farneback"}, "flow.method is dis there and farneback now"),
        ({"method": "none"}, "flow.method is dis there and none now"),
        ({"bound_px": "video"}, "flow.bound_px is 8.0 there and video now"),
        ({"backward": True}, "flow.backward is False there and True now"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, words):
    videos = tiny_list(tmp_path / "v", count=2)
    run(videos, tmp_path / "r")
    with pytest.raises(UserError) as error:
        run(videos, tmp_path / "r", **change)
    remedy = "choose another data.records or delete the folder"
    assert str(error.value) == f"data.records: {tmp_path / 'r'} was prepared otherwise: {words}; {remedy}"


def test_bad_videos_are_set_aside_and_the_run_goes_on(tmp_path):
    names = ["empty", "good", "missing", "one_frame", "text"]
    write_clip(tmp_path / "good.avi")
    write_clip(tmp_path / "one_frame.avi", frames=1)
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("not a video")
    dataset = run(listed(tmp_path, names), tmp_path / "r", max_bad_fraction=0.8)
    lines = [json.loads(line) for line in (tmp_path / "r" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {
        "empty": "the file is empty",
        "missing": "no such file",
        "one_frame": "one frame; at least 2 are needed for flow",
        "text": "cannot be opened as a video",
    }
    for line in lines:
        file = tmp_path / f"{line['name']}.avi"
        content = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else ""
        assert line == {"name": file.stem, "path": str(file), "reason": reasons[file.stem], "content": content}
    assert [line["name"] for line in lines] == sorted(reasons)
    assert [video.name for video in dataset.videos] == ["good"]
    assert (dataset.counts["videos"], dataset.counts["quarantined"]) == (1, 4)


def test_too_many_bad_videos_stop_the_run_and_keep_the_rest(tmp_path, monkeypatch):
    names = ["a", "bad", "c", "worse"]
    for name in ("a", "c"):
        write_clip(tmp_path / f"{name}.avi")
    videos = listed(tmp_path, names)
    with pytest.raises(UserError) as error:
        run(videos, tmp_path / "r", max_bad_fraction=0.49)
    words = "data.max_bad_fraction: 2 of 4 videos were set aside, more than 0.49; 2 as bad: no such file; see"
    assert str(error.value).startswith(words)
    assert (tmp_path / "r" / "quarantine.jsonl").read_text().count("no such file") == 2
    # Half is not more than half; the good videos are not read again.
    real, read = stages.iterate_frames, []
    monkeypatch.setattr(stages, "iterate_frames", lambda path, side: read.append(path.stem) or real(path, side))
    assert run(videos, tmp_path / "r", max_bad_fraction=0.5).counts["videos"] == 2
    assert read == ["bad", "worse"]


def test_no_usable_video_at_all_is_an_error_whatever_the_fraction(tmp_path):
    with pytest.raises(
        UserError, match=r"2 of 2 videos were set aside; 2 as a: no such file; .*, mend the videos, and run"
    ):
        run(listed(tmp_path, ["a", "b"]), tmp_path / "r", max_bad_fraction=1.0)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    videos = tiny_list(tmp_path / "v")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    script = tmp_path / "script.py"
    script.write_text(
        limit.format(size=5000)
        + f"import pathlib, sys\nsys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n"
        + "from tiny_clips import listed, run\n"
        + "folder = pathlib.Path(sys.argv[1])\nnames = ['a/clip0', 'b/clip1', 'a/clip2', 'b/clip3']\n"
        + "run(listed(folder / 'v', names), folder / 'r')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: data.records: cannot write" in last and "File too large" in last
    assert "finished videos are kept" in last
    run(videos, tmp_path / "r")
    run(videos, tmp_path / "whole")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "whole")


def test_a_records_path_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "r").write_text("a file")
    with pytest.raises(UserError, match=r"^data\.records: cannot write .*r \(.*; finished videos are kept"):
        run(tiny_list(tmp_path / "v", count=1), tmp_path / "r")


def test_prepare_runs_outside_the_main_thread(tmp_path):
    videos, found = tiny_list(tmp_path / "v", count=1), []
    thread = threading.Thread(target=lambda: found.append(run(videos, tmp_path / "r")))
    thread.start()
    thread.join()
    assert found == [read_dataset(tmp_path / "r")]


def test_a_run_of_bad_videos_ends_early(tmp_path):
    (tmp_path / "bad").mkdir()
    names = [f"bad/{i:03}" for i in range(200)]
    for name in names:
        (tmp_path / f"{name}.avi").touch()
    with pytest.raises(UserError) as error:
        run(listed(tmp_path, names), tmp_path / "r", max_bad_fraction=0.1)
    assert "51 of 200 videos were set aside after 51 of them, more than 0.1; 51 as bad/000: the file is empty" in str(
        error.value
    )
