import concurrent.futures
import dataclasses
import hashlib
import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from input_pipeline import codecs, dataset_file, shards
from input_pipeline.dataset_file import read_dataset
from input_pipeline.prepare import prepare
from input_pipeline.schema import SCHEMA_VERSION, UserError
from input_pipeline.stages import PrepareSettings
from input_pipeline.store import Records
from input_pipeline.video_list import Video, VideoList

SIZES = {"b/short": (4, 32, 48), "a/long": (9, 40, 32), "c": (2, 32, 32)}


def noise_frames(name):
    """Frames [F, H, W, 3] of smooth noise, no two alike, so that a wrong one is noticed; grey, which FFV1 keeps."""
    count, height, width = SIZES[name]
    noise = np.random.default_rng(len(name)).normal(size=(count, height, width)).astype(np.float32)
    smooth = [cv2.normalize(cv2.GaussianBlur(plane, (0, 0), 3), None, 40, 215, cv2.NORM_MINMAX) for plane in noise]
    return np.stack(smooth).astype(np.uint8)[..., None].repeat(3, axis=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of three tiny videos of different sizes, both directions of DIS flow, several shards a folder."""
    root = tmp_path_factory.mktemp("store")
    videos = []
    for label, name in enumerate(SIZES):
        path = root / f"{name.replace('/', '_')}.avi"
        height, width = SIZES[name][1:]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (width, height))
        for frame in noise_frames(name):
            writer.write(frame[..., ::-1].copy())
        writer.release()
        videos.append(Video(name, path, label, f"g{label}", {"1": "train", "2": "test"}))
    listed = VideoList("tiny", "csv", ("x", "y", "z"), ("1", "2"), tuple(videos))
    settings = PrepareSettings(32, "dis", 6.0, True, 0.0, 1)
    with pytest.MonkeyPatch.context() as patch:
        # Small enough that the longest video fills a shard of its own.
        patch.setattr(shards, "SHARD_BYTES", 4_000)
        prepare(listed, root / "records", settings, lambda *progress: None)
    return root / "records"


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the records that a test may damage."""
    return shutil.copytree(folder, tmp_path / "records")


@pytest.fixture(scope="module")
def records(folder):
    return Records(folder)


def test_videos_are_sorted_and_described(records):
    assert len(records) == 3
    assert [v.name for v in records.videos] == ["a/long", "b/short", "c"]
    video = records.videos[1]
    assert (video.label, video.group, video.subsets) == (0, "g0", {"1": "train", "2": "test"})
    assert (video.frames, video.pairs, video.height, video.width, video.bound_px) == (4, 3, 32, 48, 6.0)
    # Several shards are really read from.
    assert len(records.dataset.files["rgb"]) > 1


def test_frames_come_back_in_the_order_asked_for(records):
    for video, stored in enumerate(records.videos):
        original = noise_frames(stored.name)
        indices = [stored.frames - 1, 0, 0]
        frames = records.frames(video, indices)
        assert frames.dtype == np.uint8 and frames.shape == (3, stored.height, stored.width, 3)
        # Quality 95 quantises smooth content by steps of 1 to 3 levels; another frame is off by tens.
        assert np.abs(frames.astype(int) - original[indices].astype(int)).max() <= 3
        assert np.abs(original[0].astype(int) - original[-1]).mean() > 20
    assert records.frames(0, []).shape == (0, 40, 32, 3)


def test_flow_is_the_decoded_field_jpegs_with_their_means(records):
    for backward in (False, True):
        levels, means, bound = records.flow(0, 2, 4, backward)
        assert levels.dtype == np.uint8 and levels.shape == (4, 40, 32, 2)
        assert means.dtype == np.float32 and bound == 6.0
        for k, (x, y, mean) in enumerate(records.field_jpegs(0, range(2, 6), backward)):
            np.testing.assert_array_equal(levels[k, ..., 0], codecs.decode_grey(x))
            np.testing.assert_array_equal(levels[k, ..., 1], codecs.decode_grey(y))
            np.testing.assert_array_equal(means[k], mean)
            # q -> 12 q / 255 - 6; float32 px of about 6 have steps of 5e-7.
            pixels = 12.0 * levels[k].astype(np.float64) / 255.0 - 6.0
            np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1)), atol=1e-6)
    assert not np.array_equal(records.flow(0, 2, 4)[0], records.flow(0, 2, 4, backward=True)[0])
    assert records.flow(0, 2, 0)[1].shape == (0, 2)


def test_indices_outside_are_refused(records):
    with pytest.raises(IndexError, match=r"^video 3 of 3 in "):
        records.frames(3, [0])
    with pytest.raises(IndexError, match=r"^video -1 of 3 in "):
        records.frames(-1, [0])
    with pytest.raises(IndexError, match=r"^b/short: rgb record 4 of 4$"):
        records.frames(1, [0, 4])
    with pytest.raises(IndexError, match=r"^b/short: rgb record -1 of 4$"):
        records.frames(1, [-1])
    with pytest.raises(IndexError, match=r"^b/short: flow record 3 of 3$"):
        records.flow(1, 2, 2)
    with pytest.raises(IndexError, match=r"^b/short: flow_backward record 3 of 3$"):
        records.flow(1, 3, 1, backward=True)


def test_a_pickled_copy_reads_the_same(records):
    copied = pickle.loads(pickle.dumps(records))
    assert copied.videos == records.videos
    np.testing.assert_array_equal(copied.frames(0, [3]), records.frames(0, [3]))


def test_threads_share_one_reader(folder):
    records = Records(folder)
    wanted = [records.frame_jpegs(video, range(stored.frames)) for video, stored in enumerate(records.videos)]
    fresh = Records(folder)

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            video = int(rng.integers(3))
            indices = rng.integers(len(wanted[video]), size=4)
            assert fresh.frame_jpegs(video, indices) == [wanted[video][i] for i in indices]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(16)))


def test_dataset_json_survives_a_round_trip(folder):
    text = (folder / "dataset.json").read_text()
    dataset = read_dataset(folder)
    assert dataset_file.format_dataset(dataset) == text
    assert json.loads(text)["schema"] == SCHEMA_VERSION
    # One line a video, and one for each other key.
    assert sum(line.startswith('{"name": ') for line in text.splitlines()) == 3


def test_checksum_covers_files_and_videos(folder):
    dataset = read_dataset(folder)
    hashes = [
        hashlib.sha256((folder / kind / file.file).read_bytes()).hexdigest()
        for kind, files in dataset.files.items()
        for file in files
    ]
    lines = [line.removesuffix(",") for line in (folder / "dataset.json").read_text().splitlines()]
    table = [line for line in lines if line.startswith('{"name": ')]
    wanted = hashlib.sha256("".join(f"{line}\n" for line in sorted(hashes) + table).encode()).hexdigest()
    assert dataset.checksum == wanted
    relabelled = (dataclasses.replace(dataset.videos[0], label=2), *dataset.videos[1:])
    assert (
        dataset_file.checksum(dataset.files, dataset.videos)
        == wanted
        != dataset_file.checksum(dataset.files, relabelled)
    )


def test_folder_without_dataset_json_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        Records(tmp_path)
    assert str(error.value) == f"data.records: {tmp_path} holds no dataset.json; run --mode=prepare first"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2}', "\xff"])
def test_unreadable_dataset_json_is_named(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read \(.*delete the folder"):
        read_dataset(tmp_path)


def test_other_schema_version_is_refused(copy):
    file = copy / "dataset.json"
    file.write_text(file.read_text().replace('"schema": 2', '"schema": 1'))
    with pytest.raises(UserError, match=r"has schema version 1, but this program reads 2; run --mode=prepare into"):
        read_dataset(copy)


def test_missing_record_file_is_named(copy):
    (copy / "rgb" / read_dataset(copy).files["rgb"][0].file).unlink()
    with pytest.raises(
        UserError, match=r"rgb-all\.array_record-00000-of-\d+: no such file, but dataset\.json lists it"
    ):
        Records(copy).frames(0, [0])


def test_truncated_record_file_is_named(copy):
    file = copy / "rgb" / read_dataset(copy).files["rgb"][0].file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"rgb-all\S+: holds \d+ records instead of \d+; it is damaged"):
        Records(copy).frames(0, [0])


def test_flipped_bytes_are_named(copy):
    file = copy / "rgb" / read_dataset(copy).files["rgb"][0].file
    content = bytearray(file.read_bytes())
    # Inside the first frame's JPEG, which every chunk's hash covers.
    place = content.index(b"\xff\xd8\xff") + 200
    content[place] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"rgb-all\S+, a/long, record 0: cannot be read, run --mode=prepare --verify"):
        Records(copy).frames(0, [0])


def test_records_of_another_video_are_named(copy):
    dataset = read_dataset(copy)
    first, second, third = dataset.videos
    shifted = dataclasses.replace(first, frames=8, rgb=(first.rgb[0], 1))
    (copy / "dataset.json").write_text(
        dataset_file.format_dataset(dataclasses.replace(dataset, videos=(shifted, second, third)))
    )
    with pytest.raises(UserError, match=r"a/long, record 0: found record 1 of a/long; dataset\.json is of other files"):
        Records(copy).frames(0, [0])


def test_damaged_jpeg_is_named(copy, monkeypatch):
    def refuse(jpeg):
        raise ValueError("damaged JPEG: 3 bytes")

    monkeypatch.setattr(codecs, "decode_frame", refuse)
    with pytest.raises(UserError, match=r"a/long, record 2: damaged JPEG: 3 bytes"):
        Records(copy).frames(0, [2])


def test_a_stream_that_was_not_prepared_is_named(copy):
    dataset = read_dataset(copy)
    without = tuple(dataclasses.replace(video, flow=None, flow_backward=None) for video in dataset.videos)
    (copy / "dataset.json").write_text(dataset_file.format_dataset(dataclasses.replace(dataset, videos=without)))
    records = Records(copy)
    assert records.videos[0].pairs == 0
    with pytest.raises(UserError, match=r"holds no flow; prepare another folder with a flow\.method other than none"):
        records.flow(0, 0, 1)
    with pytest.raises(UserError, match=r"holds no flow_backward; prepare another folder with flow\.backward=True"):
        records.flow(0, 0, 1, backward=True)


@pytest.mark.parametrize("kind", ["rgb", "flow", "flow_backward"])
def test_tensorflow_datasets_opens_each_folder(folder, records, kind):
    tfds = pytest.importorskip("tensorflow_datasets")
    source = tfds.builder_from_directory(str(folder / kind)).as_data_source("all")
    examples = [source[i] for i in range(len(source))]
    assert len(examples) == sum(v.frames if kind == "rgb" else v.pairs for v in records.videos)
    wanted = [(v.name, i) for v in records.videos for i in range(v.frames if kind == "rgb" else v.pairs)]
    assert [(e["video"].decode(), int(e["index"])) for e in examples] == wanted
    if kind == "rgb":
        assert examples[5]["image"] == records.frame_jpegs(0, [5])[0]
    else:
        x, y, mean = records.field_jpegs(0, [5], kind == "flow_backward")[0]
        assert (examples[5]["x"], examples[5]["y"]) == (x, y)
        np.testing.assert_array_equal(examples[5]["mean"], mean)
