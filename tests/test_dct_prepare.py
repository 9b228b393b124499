"""data.codec=dct in prepare: same bytes again and after any interruption, repaired, brought up to date, taken over."""

import dataclasses
import shutil
import sys

import cv2
import numpy as np
import pytest
from jpeg_sets import jpeg, write_video
from tiny_clips import SETTINGS, hashes, listed, run, tiny_list, verify_lines, write_clip

from input_pipeline import dataset_file, dct, opencv_flow, shards, stages
from input_pipeline.codecs import decode_grey
from input_pipeline.dataset_file import read_dataset
from input_pipeline.estimate import estimate
from input_pipeline.jpeg_video import JpegVideo, Series
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import UserError, dequantise_flow
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList
from input_pipeline.videos import read_video

DCT = dataclasses.replace(SETTINGS, codec="dct", backward=True, bound_px="video", short_side=36)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder with v/ and r/, the videos): six clips of 36x54 px, DCT records in several files a folder."""
    folder = tmp_path_factory.mktemp("made")
    videos = tiny_list(folder / "v", count=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 4_000)
        run(videos, folder / "r", DCT)
    return folder, videos


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the records that a test may damage."""
    shutil.copytree(made[0] / "r", tmp_path / "r")
    return tmp_path / "r"


def check(videos, records, settings=DCT):
    return verify_lines(videos, records, settings)


def test_records_hold_the_flow_of_the_video(made):
    records, videos = Records(made[0] / "r"), made[1]
    for position, stored in enumerate(records.videos):
        path = next(video.path for video in videos.videos if video.name == stored.name)
        frames = read_video(path, 36)
        assert (stored.frames, stored.height, stored.width) == (len(frames), 36, 54)
        for backward in (False, True):
            flow = compute_flow(frames, "dis", backward)
            levels, means, bound = records.flow(position, 0, stored.pairs, backward)
            assert bound == pytest.approx(np.abs(np.stack([compute_flow(frames, "dis", way) for way in (0, 1)])).max())
            px = dequantise_flow(levels, bound)
            # Rounded to coefficients, then to levels.
            assert np.sqrt(((px - flow) ** 2).mean()) < 2.5 * (2 * bound / 255)
            # The rounding to levels is off by half a level at most; the means were taken before it.
            np.testing.assert_allclose(means, px.mean(axis=(1, 2)), rtol=0, atol=bound / 255)


def test_frames_are_the_jpegs_that_they_are_beside_jpeg_flow(made, tmp_path):
    jpegs = run(made[1], tmp_path / "r", dataclasses.replace(DCT, codec="jpeg"))
    ours, theirs = Records(made[0] / "r"), Records(tmp_path / "r")
    assert ours.raw("rgb", 3) == theirs.raw("rgb", 3)
    assert (ours.dataset.flow.codec, ours.dataset.flow.dct_planes, ours.dataset.jpeg_quality) == ("dct", 64, 95)
    assert (jpegs.flow.codec, jpegs.flow.dct_planes) == ("jpeg", 0)
    # Records of JPEGs say what they said before there were others.
    head = (tmp_path / "r" / "dataset.json").read_text()
    assert "codec" not in head and "dct" not in head and '"codec": "dct"' in (made[0] / "r/dataset.json").read_text()
    names = {path.name for path in (made[0] / "r" / "flow").iterdir()}
    assert names == {f"flow-all.dct-{i:05d}-of-{len(names):05d}" for i in range(len(names))} and len(names) > 1
    assert {"dataset_info.json", "features.json"} < {path.name for path in (made[0] / "r" / "rgb").iterdir()}


def test_fewer_coefficients_take_less_room(tmp_path, monkeypatch):
    def noise(sources, targets, method):
        return np.random.default_rng(0).normal(0, 1, (*sources.shape, 2)).astype(np.float32)

    monkeypatch.setattr(opencv_flow, "flow_of_pairs", noise)
    videos = tiny_list(tmp_path / "v", count=2)
    few, all_of_them = (run(videos, tmp_path / str(n), DCT, dct_planes=n) for n in (28, 64))
    assert few.flow.dct_planes == 28 and few.counts["bytes"] < all_of_them.counts["bytes"]
    kept = {0, *dct.zigzag(28)}
    assert {plane % 64 for plane in Records(tmp_path / "28").planes()} <= kept
    assert not {plane % 64 for plane in Records(tmp_path / "64").planes()} <= kept


def test_again_and_in_other_processes_every_byte_is_the_same(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 4_000)
    run(made[1], tmp_path / "r", DCT, processes=2)
    assert hashes(tmp_path / "r") == hashes(made[0] / "r")


def test_an_interrupted_run_continues(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 4_000)
    real, merged = shards.write_record_file, []

    def stop(file, *rest, **options):
        merged.append(file.name)
        if len(merged) == 3:
            raise KeyboardInterrupt
        return real(file, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_record_file", stop)
        with pytest.raises(KeyboardInterrupt):
            run(made[1], tmp_path / "r", DCT)
    assert not (tmp_path / "r" / "dataset.json").exists()
    for change, words in (
        ({"codec": "jpeg"}, r"holds an interrupted run with data\.codec dct, now jpeg; finish it as it was"),
        ({"dct_planes": 28}, r"holds an interrupted run with data\.dct_planes 64, now 28; finish it as it was"),
    ):
        with pytest.raises(UserError, match=words):
            run(made[1], tmp_path / "r", DCT, **change)
    monkeypatch.setattr(stages, "iterate_frames", None)  # nothing is decoded again
    run(made[1], tmp_path / "r", DCT)
    assert hashes(tmp_path / "r") == hashes(made[0] / "r")


def test_finished_videos_are_known_by_their_codec(made):
    video = made[1].videos[0]
    jpeg, dct64, dct28 = (
        stages.fingerprint(video, dataclasses.replace(SETTINGS, codec=codec, dct_planes=planes))
        for codec, planes in (("jpeg", 64), ("dct", 64), ("dct", 28))
    )
    assert len({jpeg, dct64, dct28}) == 3
    # Of JPEGs, and of frames alone, the keys of another codec say nothing.
    assert stages.fingerprint(video, dataclasses.replace(SETTINGS, dct_planes=28)) == jpeg
    frames = [dataclasses.replace(SETTINGS, method="none", codec=codec) for codec in ("jpeg", "dct")]
    assert stages.fingerprint(video, frames[0]) == stages.fingerprint(video, frames[1])


def test_other_settings_are_refused(made):
    for change, words in (
        ({"codec": "jpeg"}, r"was prepared otherwise: data\.codec is dct there and jpeg now"),
        ({"dct_planes": 28}, r"was prepared otherwise: data\.dct_planes is 64 there and 28 now"),
    ):
        with pytest.raises(UserError, match=words):
            run(made[1], made[0] / "r", DCT, **change)


def test_new_and_replaced_videos(tmp_path):
    videos = tiny_list(tmp_path / "v")
    run(dataclasses.replace(videos, videos=videos.videos[:3]), tmp_path / "r", DCT)
    write_clip(tmp_path / "v" / "b" / "clip1.avi", frames=9, seed=7)
    run(videos, tmp_path / "r", DCT)
    run(videos, tmp_path / "fresh", DCT)
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_an_unreadable_video_is_set_aside(tmp_path):
    write_clip(tmp_path / "good.avi")
    (tmp_path / "bad.avi").write_bytes(b"no video")
    dataset = run(listed(tmp_path, ["bad", "good"]), tmp_path / "r", DCT)
    assert dataset.counts["quarantined"] == 1 and len(Records(tmp_path / "r")) == 1


@pytest.mark.parametrize("folder", ["flow", "flow_backward"])
def test_a_flipped_byte_is_named_and_repaired(made, copy, folder, monkeypatch):
    before, dataset = hashes(copy), read_dataset(copy)
    file = copy / folder / dataset.files[folder][getattr(dataset.videos[3], folder)[0]].file
    content = bytearray(file.read_bytes())
    damaged = Records(copy).raw(folder, 3)[2]
    content[content.index(damaged) + len(damaged) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name}, b/clip1, record 2: damaged: .* fit their checksum; run --mode"):
        Records(copy).flow(3, 0, 3, folder == "flow_backward")
    real, decoded = stages.iterate_frames, []
    monkeypatch.setattr(stages, "iterate_frames", lambda path, side: decoded.append(path.stem) or real(path, side))
    assert check(made[1], copy) == [
        f"{file}: is damaged",
        "  b/clip1: 1 records (2)",
        f"{copy}: 1 record files repaired, byte for byte as they were written",
    ]
    assert decoded == ["clip1"] and hashes(copy) == before
    assert check(made[1], copy) == [f"{copy}: all {len(before) - 4} record files are as they were written"]


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage"])
def test_a_file_that_is_none_any_more_is_repaired(made, copy, how):
    before = hashes(copy)
    file = copy / "flow" / read_dataset(copy).files["flow"][1].file
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-100] if how == "truncated" else b"x" * len(content))
    said = check(made[1], copy)
    assert said[0] == f"{file}: is {'missing' if how == 'missing' else 'damaged'}" and "all records" in said[1]
    assert hashes(copy) == before


def test_frames_are_repaired_without_flow(made, copy, monkeypatch):
    before = hashes(copy)
    (copy / "rgb" / read_dataset(copy).files["rgb"][0].file).unlink()
    (copy / "rgb" / "features.json").unlink()
    monkeypatch.setattr(opencv_flow, "flow_of_pairs", None)
    assert "repaired" in check(made[1], copy)[-2]
    assert hashes(copy) == before


def test_what_dataset_json_cannot_say_of_a_codec(copy):
    dataset = read_dataset(copy)
    for change, words in (
        ({"codec": "png"}, r"flow\.codec is 'png', none of jpeg, dct"),
        ({"dct_planes": 65}, r"flow\.dct_planes is 65, which flow\.codec dct cannot have"),
        ({"dct_planes": 0}, r"flow\.dct_planes is 0, which flow\.codec dct cannot have"),
    ):
        other = dataclasses.replace(dataset, flow=dataclasses.replace(dataset.flow, **change))
        text = dataset_file.format_dataset(other).replace('"codec": "jpeg"', '"codec": "dct"')
        if change.get("codec") == "png":
            text = dataset_file.format_dataset(dataset).replace('"codec": "dct"', '"codec": "png"')
        (copy / "dataset.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read_dataset(copy)


def test_sizes_that_differ_from_dataset_json_are_named(copy):
    dataset = read_dataset(copy)
    first = dataclasses.replace(dataset.videos[0], height=16)
    changed = dataclasses.replace(dataset, videos=(first, *dataset.videos[1:]))
    (copy / "dataset.json").write_text(dataset_file.format_dataset(changed))
    with pytest.raises(UserError, match=r"a/clip0, record 1: is 54x36 px, dataset\.json says 54x16; run --mode"):
        Records(copy).flow(0, 1, 1)
    out = np.zeros((1, 2, 1, 2, 2), np.int8)
    with pytest.raises(UserError, match=r"a/clip0, record 1: is 54x36 px, dataset\.json says 54x16; run --mode"):
        Records(copy).read_planes(0, [1], (0,), (0, 0), out)
    with pytest.raises(IndexError, match="a/clip0: flow record 3 of 3"):
        Records(copy).read_planes(0, [3], (0,), (0, 0), out)


def test_the_estimate_is_of_the_codec(tmp_path):
    write_clip(tmp_path / "one.avi", frames=12, size=(240, 320))
    videos = listed(tmp_path, ["one"])
    sizes = []
    for codec in ("jpeg", "dct"):
        settings = dataclasses.replace(SETTINGS, short_side=240, codec=codec, bound_px=20.0)
        cost, written = estimate(videos, settings), run(videos, tmp_path / codec, settings)
        assert cost.gigabytes == pytest.approx(written.counts["bytes"] / 1e9, rel=0.4)
        sizes.append(cost.gigabytes)
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codec": "png"}, "data.codec: 'png' is unknown; choose one of jpeg, dct"),
        ({"dct_planes": 0}, "data.dct_planes: 0; give 1 to 64"),
        ({"dct_planes": 65}, "data.dct_planes: 65; give 1 to 64"),
    ],
)
def test_senseless_settings_are_named(tmp_path, change, words):
    with pytest.raises(UserError) as error:
        run(listed(tmp_path, ["a"]), tmp_path / "r", DCT, **change)
    assert str(error.value) == words and not (tmp_path / "r").exists()


# --- JPEGs taken over ---------------------------------------------------------------------------------------------

GIVEN = dataclasses.replace(SETTINGS, method="given", bound_px=20.0, given=("rgb", "flow"), codec="dct")


def set_of(folder, names=("a/one", "a/two")):
    """A set of videos of JPEGs as dense_flow leaves them."""
    videos = []
    for i, name in enumerate(names):
        place = write_video(folder / name, frames=5, seed=10 * i)
        source = JpegVideo(*(Series(place, prefix) for prefix in ("img_", "flow_x_", "flow_y_")))
        videos.append(Video(name, place, i % 2, f"g{i}", {"1": "train"}, source))
    return VideoList("set", "jpeg_folders", ("left", "right"), ("1",), tuple(videos), given=("rgb", "flow"))


def test_jpegs_are_taken_over_exactly(tmp_path):
    pytest.importorskip("jpeglib")
    videos = set_of(tmp_path / "s")
    dataset = run(videos, tmp_path / "r", GIVEN)
    assert (dataset.flow.method, dataset.flow.codec, dataset.flow.dct_planes) == ("given", "dct", 64)
    records = Records(tmp_path / "r")
    for position, video in enumerate(records.videos):
        levels, means, bound = records.flow(position, 0, 4)
        assert bound == 20.0
        for i in range(4):
            files = [tmp_path / "s" / video.name / f"flow_{axis}_{i + 1:05d}.jpg" for axis in "xy"]
            wanted = np.stack([decode_grey(file.read_bytes()) for file in files], axis=-1)
            # The decoder rounds once more than we do.
            assert np.abs(levels[i].astype(int) - wanted).max() <= 1
            np.testing.assert_allclose(means[i], dequantise_flow(wanted, 20.0).mean((0, 1)), atol=0.02)
    run(videos, tmp_path / "again", GIVEN, processes=2)
    assert hashes(tmp_path / "r") == hashes(tmp_path / "again")
    for change, words in (({"codec": "jpeg"}, r"data\.codec is dct there and jpeg now"),):
        with pytest.raises(UserError, match=words):
            run(videos, tmp_path / "r", GIVEN, **change)


def test_jpegs_of_two_qualities_in_a_video_are_set_aside(tmp_path):
    pytest.importorskip("jpeglib")
    videos = set_of(tmp_path / "s")
    levels = decode_grey(jpeg())
    for axis in "xy":
        other = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
        (tmp_path / "s/a/one" / f"flow_{axis}_00003.jpg").write_bytes(other)
    (tmp_path / "s/a/two/flow_y_00002.jpg").write_bytes(other)
    with pytest.raises(UserError, match=r"data\.max_bad_fraction: 2 of 2 videos were set aside"):
        run(videos, tmp_path / "r", GIVEN)
    told = (tmp_path / "r" / "quarantine.jsonl").read_text()
    assert "flow_x_00003.jpg: its quantisation tables differ from those of" in told
    assert "take it over with data.codec=jpeg" in told
    assert "flow_x_00002.jpg: the x and y JPEGs differ in size or in their quantisation tables" in told


def test_without_jpeglib_one_line_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    videos = set_of(tmp_path / "s")
    for call in (lambda: run(videos, tmp_path / "r", GIVEN), lambda: estimate(videos, GIVEN)):
        with pytest.raises(UserError, match=r"data\.codec=dct: taking over flow JPEGs needs jpeglib .* pip install"):
            call()
    assert not (tmp_path / "r").exists()
    # Frames alone, and JPEGs as they are, need none of it.
    run(videos, tmp_path / "rgb", GIVEN, given=("rgb",), method="none")
    run(videos, tmp_path / "jpeg", GIVEN, codec="jpeg")
