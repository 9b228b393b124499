"""Folders of tensorflow-datasets: written by it (it needs no tensorflow for that), read without it."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf import json_format
from tensorboardX.record_writer import RecordWriter
from test_datasets import section
from tiny_clips import SETTINGS, run

from input_pipeline import codecs, example_files
from input_pipeline.codecs import Example
from input_pipeline.datasets import list_videos
from input_pipeline.estimate import estimate
from input_pipeline.example_files import list_records, read_record
from input_pipeline.opencv_flow import compute_flow
from input_pipeline.schema import UserError, quantise_flow
from input_pipeline.store import Records

SHARDS = 3


@pytest.fixture(scope="module")
def tfds():
    logging.getLogger("absl").setLevel(logging.ERROR)
    return pytest.importorskip("tensorflow_datasets")


def picture(seed: int, suffix=".png", size=(24, 32)) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))[1].tobytes()


def build(tfds, root: Path, name: str, features: dict, splits: dict[str, list[dict]]) -> Path:
    """Let tensorflow-datasets prepare a set in ArrayRecord files; return its version folder."""

    class OneSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    OneSet.name = name
    builder = OneSet(data_dir=str(root), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=SHARDS))
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def pets(tfds, tmp_path_factory) -> Path:
    """Twelve training and five validation images of two classes, in three shards each."""
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["dog", "cat"]),
        "file_name": tfds.features.Text(),
        "mask": tfds.features.Tensor(shape=(40, 40), dtype=np.int64),
    }

    def example(i):
        name = f"v_pet_g{i % 4:02d}_c{i}.avi"
        return {"image": picture(i), "label": i % 2, "file_name": name, "mask": np.full((40, 40), 2**40, np.int64)}

    splits = {"train": [example(i) for i in range(12)], "validation": [example(i) for i in range(12, 17)]}
    return build(tfds, tmp_path_factory.mktemp("tfds"), "pets", features, splits)


@pytest.fixture(scope="module")
def clips(tfds, tmp_path_factory) -> Path:
    """Three training and three test videos of 4, 5, ... 9 frames, as a Sequence of Images."""
    features = {
        "video": tfds.features.Sequence(tfds.features.Image(encoding_format="png")),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    videos = [{"video": [picture(10 * i + j) for j in range(4 + i)], "label": i % 2} for i in range(6)]
    return build(tfds, tmp_path_factory.mktemp("tfds"), "clips", features, {"train": videos[:3], "test": videos[3:]})


def copied(folder: Path, to: Path, info=None, features=None) -> Path:
    """Copy a version folder, its JSON files edited by functions that change them in place."""
    shutil.copytree(folder, to)
    for name, edit in (("dataset_info.json", info), ("features.json", features)):
        content = json.loads((to / name).read_text())
        if edit:
            edit(content)
        (to / name).write_text(json.dumps(content))
    return to


def as_tfrecord(folder: Path, to: Path) -> Path:
    """Copy a version folder with its records in TFRecord files, framed by tensorboardX's own writer."""
    copied(folder, to, lambda info: info.update(fileFormat="tfrecord"))
    for file in sorted(to.glob("*.array_record-*")):
        records = ArrayRecordReader(str(file)).read_all()
        file.unlink()
        writer = RecordWriter(str(file).replace(".array_record-", ".tfrecord-"))
        for record in records:
            writer.write(record)
        writer.close()
    return to


def read(folder: Path, **options):
    return list_videos(section("tfds", videos=str(folder), **options))


def facts(listed) -> list[tuple]:
    return [(v.name, v.label, v.group, v.subsets) for v in listed.videos]


def frames(video) -> np.ndarray:
    return np.stack(list(video.source.frames(24)))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_images_are_those_that_tfds_reads(tfds, pets, tmp_path, file_format):
    folder = pets if file_format == "array_record" else as_tfrecord(pets, tmp_path / "1.0.0")
    listed = read(folder)
    builder = tfds.builder_from_directory(str(pets))
    assert (listed.name, listed.kind, listed.still) == ("pets", "tfds", True)
    assert listed.classes == tuple(builder.info.features["label"].names) == ("dog", "cat")
    assert listed.notes[0].startswith("split 1: groups both in train and test: 4, such as g00, g01, g02")
    by_name = {video.name: video for video in listed.videos}
    assert len(by_name) == 17
    for split, subset in (("train", "train"), ("validation", "test")):
        source = builder.as_data_source(split)
        for i in range(len(source)):
            video, example = by_name[f"{split}/{i:08d}"], source[i]
            assert (video.label, video.subsets) == (example["label"], {"1": subset})
            assert video.group == example["file_name"].decode().split("_")[2]
            np.testing.assert_array_equal(frames(video)[0], example["image"])
            assert video.exists() and video.size_bytes() > 6 * 40 * 40 and video.source.count_frames() == 1


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("feature", ["Sequence", "Video"])
def test_videos_are_those_that_tfds_reads(tfds, clips, tmp_path, file_format, feature):
    folder = clips if file_format == "array_record" else as_tfrecord(clips, tmp_path / "records")
    builder = tfds.builder_from_directory(str(clips))
    if feature == "Video":
        folder = copied(folder, tmp_path / "video", features=lambda top: top["featuresDict"]["features"].update(
            video=video_feature()
        ))  # fmt: skip
    listed = read(folder)
    assert not listed.still and listed.classes == ("0", "1") and listed.notes == ()
    assert [v.name for v in listed.videos] == [f"{split}/{i:08d}" for split in ("test", "train") for i in range(3)]
    assert all(v.group == v.name for v in listed.videos)
    for split in ("train", "test"):
        source = builder.as_data_source(split)
        for i, video in enumerate(v for v in listed.videos if v.subsets["1"] == split):
            np.testing.assert_array_equal(frames(video), np.stack(list(source[i]["video"])))
            assert video.label == source[i]["label"] and video.source.count_frames() == len(frames(video))


def video_feature() -> dict:
    """A Video as tfds writes it into features.json; the class itself needs tensorflow."""
    from tensorflow_datasets.core.proto import feature_pb2

    shape = feature_pb2.Shape(dimensions=[-1, 24, 32, 3])
    video = feature_pb2.VideoFeature(shape=shape, dtype="uint8", encoding_format="png")
    name = "tensorflow_datasets.core.features.video_feature.Video"
    return json_format.MessageToDict(feature_pb2.Feature(python_class_name=name, video=video))


def test_videos_become_records_in_worker_processes(clips, tmp_path):
    listed = read(as_tfrecord(clips, tmp_path / "1.0.0"))
    cost = estimate(listed, SETTINGS)
    # 4 + 5 + ... + 9 frames.
    assert (cost.videos, cost.frames, cost.pairs) == (6, 39, 33) and cost.gigabytes > 0
    run(listed, tmp_path / "r", dataclasses.replace(SETTINGS, short_side=24, bound_px=20.0, processes=2))
    records = Records(tmp_path / "r")
    assert [(v.name, v.frames) for v in records.videos] == [(v.name, v.source.count_frames()) for v in listed.videos]
    for position, video in enumerate(listed.videos):
        wanted = frames(video)
        stored = [codecs.decode_frame(codecs.encode_frame(each)) for each in wanted]
        np.testing.assert_array_equal(records.frames(position, range(len(wanted))), stored)
        levels, _, _ = records.flow(position, 0, len(wanted) - 1)
        fields = [quantise_flow(field, 20.0).transpose(2, 0, 1) for field in compute_flow(wanted, "dis")]
        stored = [np.dstack([codecs.decode_grey(each) for each in codecs.encode_field(field)]) for field in fields]
        np.testing.assert_array_equal(levels, stored)


def test_the_folder_above_a_single_version_will_do(pets, tmp_path):
    wanted = facts(read(pets))
    assert facts(read(pets.parent)) == wanted and facts(read(pets.parent.parent)) == wanted
    for version in ("1.0.0", "2.0.0"):
        copied(pets, tmp_path / "pets" / version)
    with pytest.raises(UserError, match=r"data\.videos=.*pets holds 2 versions, such as 1\.0\.0, 2\.0\.0: give one"):
        read(tmp_path / "pets")
    with pytest.raises(UserError, match=r"data\.videos=.*none holds no dataset_info\.json: give the version folder"):
        (tmp_path / "none").mkdir()
        read(tmp_path / "none")


def test_classes_can_be_chosen(pets):
    listed = read(pets, classes=("cat",))
    assert listed.still and {v.label for v in listed.videos} == {0} and len(listed.videos) == 8
    assert all(v.source for v in listed.videos)


# --- parts --------------------------------------------------------------------------------------------------------


def labelled(tfds, root: Path, **labels: list[int]) -> Path:
    features = {"image": tfds.features.Image(encoding_format="png"), "label": tfds.features.ClassLabel(num_classes=2)}
    splits = {split: [{"image": picture(0), "label": label} for label in each] for split, each in labels.items()}
    return build(tfds, root, "set", features, splits)


def parts(listed) -> dict[str, str]:
    return {v.name[:-3]: v.subsets["1"] for v in listed.videos}


def test_validation_has_no_part_beside_test(tfds, tmp_path):
    folder = labelled(tfds, tmp_path, train=[0, 1, 1], test=[0, 1, 1], validation=[1, 1, 1], extra=[0, 0, 0])
    listed = read(folder)
    assert {name.split("/")[0]: part for name, part in parts(listed).items()} == {"train": "train", "test": "test"}
    assert listed.notes == (f"data.videos={folder}: validation, extra of its splits have no part",)


def test_an_unlabelled_test_set_gives_way_to_validation(tfds, tmp_path):
    folder = labelled(tfds, tmp_path, train=[0, 1, -1, 0], test=[-1, -1, -1], validation=[1, 0, 1])
    listed = read(folder)
    assert {v.name.split("/")[0] for v in listed.videos} == {"train", "validation"} and len(listed.videos) == 6
    assert listed.notes == (
        f"data.videos={folder}: examples of train without a label, left out: 1",
        f"data.videos={folder}: examples of test without a label, left out: 3",
        f"data.videos={folder}: test of its splits have no part",
    )


def test_without_labels_or_training_split(tfds, tmp_path):
    with pytest.raises(UserError, match=r"no example of a split train is there and has a label; its splits are train"):
        read(labelled(tfds, tmp_path / "a", train=[-1, -1, -1]))
    with pytest.raises(UserError, match=r"no example of a split train is there and has a label; its splits are extra"):
        read(labelled(tfds, tmp_path / "b", extra=[0, 1, 1]))


# --- refusals -----------------------------------------------------------------------------------------------------


def edit_features(**changes):
    def edit(top):
        features = top["featuresDict"]["features"]
        for name, like in changes.items():
            features[name] = features.pop(like[1:]) if like.startswith("-") else features[like]

    return edit


@pytest.mark.parametrize(
    ("info", "features", "message"),
    [
        (lambda i: i.update(fileFormat="riegeli"), None, r"files are of format riegeli, read are array_record and tfr"),
        (lambda i: i.update(fileFormat="parquet"), None, r"parquet, .*prepare the set again with file_format='array_r"),
        (lambda i: i.update(splits=3), None, r"dataset_info\.json is not as tensorflow-datasets 4\.5 or newer writes"),
        (lambda i: i["splits"][0].update(shardLengths=["x"]), None, r"dataset_info\.json is not .*ValueError: invalid"),
        (lambda i: i.pop("name"), None, r"dataset_info\.json is not .*KeyError: 'name'"),
        (
            lambda i: i["splits"][0].update(shardLengths=["4", "4", "5"]),
            None,
            r"holds 4 records where dataset_info\.js",
        ),
        (None, lambda f: f.update(featuresDict=[]), r"features\.json is not .*(AttributeError|TypeError)"),
        (
            None,
            lambda f: f.update({"type": f.pop("featuresDict")}),
            r"features\.json is not .*KeyError: 'featuresDict'",
        ),
        (None, edit_features(a="-image", b="a"), r"has 2 features that are Image or Video, such as a, b, and not one"),
        (None, edit_features(c="-label", d="c"), r"has 2 features that are ClassLabel, such as c, d, and not one call"),
        (None, edit_features(label="file_name"), r"has no ClassLabel among the features at its top level, which are f"),
        (None, edit_features(image="mask"), r"has no Image or Video among the features at its top level, which are f"),
        (
            None,
            edit_features(video="image"),
            r"has 2 features that are Image or Video, such as .*image or video: which",
        ),
        (None, edit_features(kind="-label"), r"record 0 has the label \[\] where one below 2 is due"),
        (
            None,
            lambda f: f["featuresDict"]["features"]["image"]["image"].update(dtype="float32"),
            r"has no Image or Video among",
        ),
    ],
)
def test_what_is_not_read_is_named(pets, tmp_path, info, features, message):
    with pytest.raises(UserError, match=message) as caught:
        read(copied(pets, tmp_path / "x", info, features))
    assert "\n" not in str(caught.value)


def test_of_several_images_the_one_called_so_is_taken(pets, tmp_path):
    listed = read(copied(pets, tmp_path / "x", features=edit_features(left="image", other="label")))
    assert {v.source.feature for v in listed.videos} == {"image"} and len(listed.videos) == 17


def test_damaged_json_and_labels(pets, tmp_path):
    for number, content in enumerate((b"{", b"\xff", b"[]", b"[" * 100_000)):
        folder = copied(pets, tmp_path / str(number))
        (folder / "features.json").write_bytes(content)
        with pytest.raises(UserError, match=r"features\.json (cannot be read as JSON|is not as tensorflow-datasets)"):
            read(folder)
    folder = copied(pets, tmp_path / "labels")
    (folder / "label.labels.txt").write_text("dog\n")
    with pytest.raises(UserError, match=r"record \d has the label \[1\] where one below 1 is due"):
        read(folder)
    (folder / "label.labels.txt").write_text("dog\ncat\ndog\n")
    with pytest.raises(UserError, match=r"label\.labels\.txt names a class twice"):
        read(folder)
    (folder / "label.labels.txt").write_text("dog\nc\x1bt\n")
    with pytest.raises(UserError, match=r"label\.labels\.txt: 'c\\x1bt' holds a control character"):
        read(folder)
    (folder / "label.labels.txt").unlink()
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "10000000000"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"features\.json has 10000000000 classes, more than 1000000"):
        read(folder)
    (folder / "label.labels.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"label\.labels\.txt cannot be read"):
        read(folder)


def test_absent_shards(pets, tmp_path):
    folder = copied(pets, tmp_path / "x")
    (folder / "pets-train.array_record-00001-of-00003").unlink()
    with pytest.raises(UserError, match=r"1 of 3 files of train are absent, such as pets-train\.array_record-00001-of"):
        read(folder)
    listed = read(folder, allow_missing=True)
    kept = [v for v in facts(read(pets)) if v[0] not in {f"train/{i:08d}" for i in range(4, 8)}]
    # What is left keeps its name.
    assert facts(listed) == kept and len(kept) == 13
    assert listed.notes[0] == f"data.videos={folder}: 1 of 3 files of train are absent and left out"
    for file in folder.glob("pets-train*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no example of a split train is there"):
        read(folder, allow_missing=True)


def test_an_empty_or_absent_test_set_gives_way_too(pets, tmp_path):
    empty = {"name": "test", "shardLengths": []}
    folder = copied(pets, tmp_path / "x", lambda info: info["splits"].append(empty))
    assert facts(read(folder)) == facts(read(pets))
    absent = {"name": "test", "shardLengths": ["4"]}
    folder = copied(pets, tmp_path / "y", lambda info: info["splits"].append(absent))
    with pytest.raises(
        UserError, match=r"1 of 1 files of test are absent, such as pets-test\.array_record-00000-of-00001"
    ):
        read(folder)
    assert facts(read(folder, allow_missing=True)) == facts(read(pets))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_damaged_shards_are_named(pets, tmp_path, file_format):
    folder = pets if file_format == "array_record" else as_tfrecord(pets, tmp_path / "t")
    shard = sorted(folder.glob("pets-train*"))[0]
    whole = shard.read_bytes()
    # In ArrayRecord's first record, whose sum is checked; in TFRecord's first length.
    at = 200 if file_format == "array_record" else 1
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    broken = copied(folder, tmp_path / "broken") / shard.name
    for content in (b"", b"\0" * 200_000, whole[: len(whole) // 2], whole[:-1], flipped):
        broken.write_bytes(content)
        example_files._array_reader.cache_clear()
        with pytest.raises(UserError, match=rf"{shard.name}: .*(copy it again|prepare the set again)") as caught:
            read(broken.parent)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_shard_that_changed_since_it_was_listed_is_named(pets, tmp_path, file_format):
    folder = pets if file_format == "array_record" else as_tfrecord(pets, tmp_path / "t")
    video = read(copied(folder, tmp_path / "x")).videos[-1]
    shard = video.path
    content = shard.read_bytes()
    for changed in (b"", content[: len(content) // 2], None):
        example_files._array_reader.cache_clear()
        shard.write_bytes(changed) if changed is not None else shard.unlink()
        with pytest.raises(UserError, match=rf"^{shard}: "):
            frames(video)
    assert not video.exists()


def test_every_flipped_bit_of_a_tfrecord_is_found(clips, tmp_path):
    video = read(as_tfrecord(clips, tmp_path / "t")).videos[0]
    whole = video.path.read_bytes()
    for at in np.linspace(0, len(whole) - 1, 60).astype(int):
        video.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"is damaged or cut short"):
            video.source.count_frames()


def test_a_video_without_frames_is_set_aside(tmp_path):
    example = Example()
    example.features.feature["video"].bytes_list.SetInParent()
    writer = ArrayRecordWriter(str(tmp_path / "s"), "group_size:1")
    writer.write(example.SerializeToString())
    writer.close()
    source = example_files.ExampleFrames(tmp_path / "s", "array_record", 0, 1, "video")
    with pytest.raises(UserError, match=rf"^{tmp_path / 's'}: record 0 holds no frame$"):
        list(source.frames(24))


# --- listing without reading the pictures -------------------------------------------------------------------------


def test_small_features_are_those_of_the_whole_record(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for _ in range(50):
        example = Example()
        for i in range(rng.integers(1, 6)):
            feature = example.features.feature[f"f{i}"]
            feature.bytes_list.value.extend(rng.bytes(int(n)) for n in rng.integers(0, 3000, rng.integers(0, 4)))
        example.features.feature["label"].int64_list.value.append(int(rng.integers(-1, 2**62)))
        records.append(example.SerializeToString())
    writer = RecordWriter(str(tmp_path / "r"))
    for record in records:
        writer.write(record)
    writer.close()
    kept = left_out = 0
    found = list(list_records(tmp_path / "r", "tfrecord"))
    for record, (position, size, features) in zip(records, found, strict=True):
        assert size == len(record) and read_record(tmp_path / "r", "tfrecord", position) == record
        whole = Example.FromString(record).features.feature
        assert all(features[name] == whole[name] for name in features) and "label" in features
        missing = [whole[name].ByteSize() for name in whole if name not in features]
        assert all(size > 4000 for size in missing)
        kept, left_out = kept + len(features), left_out + len(missing)
    assert kept > 100 and left_out > 20


@pytest.mark.parametrize(
    "record", [b"", b"\n", b"\n\x05ab", b"\x12\x00", b"\n\x02\n\xff", b"\n" + b"\xff" * 12, b"\xff" * 9]
)
def test_records_that_are_no_examples_are_named(tmp_path, record):
    writer = RecordWriter(str(tmp_path / "r"))
    writer.write(record)
    writer.close()
    try:
        ((_, _, features),) = list_records(tmp_path / "r", "tfrecord")
    except UserError as error:
        assert (
            str(error) == f"{tmp_path / 'r'}: record 0 is no tf.train.Example, copy it again or prepare the set again"
        )
    else:
        # Protobuf takes no bytes, and fields it does not know, for an Example without features.
        assert record in (b"", b"\x12\x00") and not features
