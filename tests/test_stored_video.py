"""Records of JPEGs become DCT records: nothing is computed again, no coefficient changes, and all else stays as it was."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from command_line import refused
from dct_sets import host_fields

from input_pipeline import dct_jpeg, stored_video
from input_pipeline.dataset_file import checksum, format_dataset, read_dataset
from input_pipeline.datasets import list_videos
from input_pipeline.quarantine import read_quarantine
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax.drivers.prepare import prepare_records, verify_records

pytest.importorskip("jpeglib", reason="taking over coefficients needs jpeglib: pip install 'twostream-jax[jpeg]'")


@pytest.fixture(scope="module")
def source(tiny_config, tmp_path_factory):
    """A config of JPEG records with flow of both directions."""
    config = tiny_config.copy_and_resolve_references()
    config.data.records, config.flow.backward = str(tmp_path_factory.mktemp("source") / "records"), True
    with config.flow.ignore_type():
        config.flow.bound_px = "video"
    prepare_records(config)
    return config


def taken_over(source, folder):
    """A config that takes over the source's records into a folder; what else it says of flow is of no account."""
    config = source.copy_and_resolve_references()
    config.data.kind, config.data.videos, config.data.split_file = "records", source.data.records, ""
    config.data.records, config.data.codec = str(folder / "dct"), "dct"
    config.flow.method, config.flow.backward, config.data.short_side = "tvl1", False, 100
    with config.flow.ignore_type():
        config.flow.bound_px = 20.0
    return config


@pytest.fixture
def config(source, tmp_path):
    return taken_over(source, tmp_path)


def test_coefficients_frames_and_facts_are_those_of_the_records(source, config):
    prepare_records(config)
    ours, theirs = Records(config.data.records), Records(source.data.records)
    one, other = ours.dataset, theirs.dataset
    for name in ("name", "kind", "classes", "splits", "streams", "short_side"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.flow == dataclasses.replace(other.flow, codec="dct", dct_planes=64) and one.flow.method == "dis"
    keep = ("name", "label", "group", "subsets", "frames", "height", "width", "bound_px", "source_bytes")
    assert [[getattr(v, k) for k in keep] for v in ours.videos] == [
        [getattr(v, k) for k in keep] for v in theirs.videos
    ]
    assert {video.bound_px for video in ours.videos} != {20.0}
    for video in (0, 13):
        assert ours.raw("rgb", video) == theirs.raw("rgb", video)
        for backward in (False, True):
            jpegs = theirs.field_jpegs(video, range(9), backward)
            coefficients, _, means = host_fields(ours, video, range(9), backward)
            for found, mean, (x, y, jpeg_mean) in zip(coefficients, means, jpegs, strict=True):
                assert np.array_equal(found, dct_jpeg.transcode_field(x, y)[0])
                # The decoder of JPEGs rounds to levels of 2b / 255 px.
                np.testing.assert_allclose(mean, jpeg_mean, atol=ours.videos[video].bound_px / 255)
            levels = [records.flow(video, 0, 9, backward)[0].astype(int) for records in (ours, theirs)]
            assert np.abs(levels[0] - levels[1]).max() <= 1


def test_a_second_time_nothing_is_done_and_new_videos_are_added(source, tmp_path, capsys):
    # Of a copy of the records without the last video, which then is added there.
    short = source.copy_and_resolve_references()
    whole = pathlib.Path(source.data.split_file).read_text()
    lines = whole.splitlines()
    folder = tmp_path / "lists"
    shutil.copytree(source.data.split_file.rpartition("/")[0], folder)
    short.data.split_file, short.data.records = str(folder / "split.csv"), str(tmp_path / "short")
    (folder / "split.csv").write_text("\n".join(lines[:-1]) + "\n")
    prepare_records(short)
    config = taken_over(short, tmp_path)
    prepare_records(config)
    before = (tmp_path / "dct" / "dataset.json").read_text()
    prepare_records(config)
    assert (tmp_path / "dct" / "dataset.json").read_text() == before
    (folder / "split.csv").write_text(whole)
    prepare_records(short)
    prepare_records(config)
    assert "1 videos are new" in "".join(capsys.readouterr())
    at_once = taken_over(short, tmp_path / "at_once")
    prepare_records(at_once)
    assert read_dataset(tmp_path / "dct").checksum == read_dataset(tmp_path / "at_once" / "dct").checksum


def test_any_number_of_processes_gives_the_same_files(config, source, tmp_path):
    prepare_records(config)
    other = taken_over(source, tmp_path / "two")
    other.data.prepare_processes = 2
    prepare_records(other)
    assert read_dataset(config.data.records) == read_dataset(other.data.records)


def test_a_damaged_file_is_made_anew_from_the_records(config, tmp_path):
    prepare_records(config)
    file = tmp_path / "dct" / "flow" / read_dataset(config.data.records).files["flow"][0].file
    sound = file.read_bytes()
    file.write_bytes(sound[:1000] + b"\xff" + sound[1001:])
    verify_records(config)
    assert file.read_bytes() == sound


def test_a_damaged_source_is_set_aside(source, config, tmp_path):
    copied = source.copy_and_resolve_references()
    shutil.copytree(source.data.records, tmp_path / "copy")
    copied.data.records = str(tmp_path / "copy")
    records = Records(copied.data.records)
    file = records._file("flow", 0)
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    config = taken_over(copied, tmp_path)
    prepare_records(config)
    aside = read_quarantine(tmp_path / "dct")
    assert 1 <= len(aside) <= 2 and len(read_dataset(tmp_path / "dct").videos) == len(records) - len(aside)
    for name, why in aside.items():
        assert str(file) in why.reason and name in why.reason, why


def test_a_video_is_taken_over_once_its_records_are_mended(source, tmp_path):
    shutil.copytree(source.data.records, tmp_path / "copy")
    copied = source.copy_and_resolve_references()
    copied.data.records = str(tmp_path / "copy")
    file = Records(copied.data.records)._file("flow", 0)
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    config = taken_over(copied, tmp_path)
    prepare_records(config)
    assert read_quarantine(tmp_path / "dct")
    file.write_bytes(content)
    prepare_records(config)
    assert not read_quarantine(tmp_path / "dct") and len(Records(config.data.records)) == len(
        Records(copied.data.records)
    )


def test_flow_of_two_versions_of_opencv_is_not_mixed(source, config, tmp_path):
    prepare_records(config)
    shutil.copytree(source.data.records, tmp_path / "copy")
    made = read_dataset(tmp_path / "copy")
    other = dataclasses.replace(made, flow=dataclasses.replace(made.flow, opencv_version="4.0.0"))
    (tmp_path / "copy" / "dataset.json").write_text(format_dataset(other))
    config.data.videos = str(tmp_path / "copy")
    ours = read_dataset(tmp_path / "dct")
    first = dataclasses.replace(ours.videos[0], source_bytes=1)  # this one has changed
    videos = (first, *ours.videos[1:])
    changed = dataclasses.replace(ours, videos=videos, checksum=checksum(ours.files, videos))
    (tmp_path / "dct" / "dataset.json").write_text(format_dataset(changed))
    with pytest.raises(
        UserError, match=r"is by OpenCV .*, that of data.videos by OpenCV 4.0.0; choose another data.records$"
    ):
        prepare_records(config)


def test_records_that_change_meanwhile_are_not_mixed(source, config, tmp_path):
    shutil.copytree(source.data.records, tmp_path / "copy")
    config.data.videos = str(tmp_path / "copy")
    video = list_videos(config.data).videos[0]
    other = taken_over(source, tmp_path / "other")
    prepare_records(other)
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(other.data.records, tmp_path / "copy")
    with pytest.raises(UserError, match=r"copy: was prepared anew meanwhile; run the same command again"):
        stored_video.take_over(video, ("rgb", "flow"))


def test_mistakes_are_one_line(source, config, tiny_config, tmp_path, capsys):
    prepare_records(config)
    again = config.copy_and_resolve_references()
    again.data.videos, again.data.records = config.data.records, str(tmp_path / "again")
    with pytest.raises(UserError, match=r"^data.videos=.*: holds flow as DCT records already; data.kind=records takes"):
        prepare_records(again)
    still = tiny_config.copy_and_resolve_references()
    still.data.records, still.flow.method = str(tmp_path / "still"), "none"
    prepare_records(still)
    again.data.videos = still.data.records
    with pytest.raises(UserError, match=r"^data.videos=.*: holds no flow; data.kind=records takes over flow in JPEGs"):
        prepare_records(again)
    again.data.videos, again.data.records = source.data.records, source.data.records
    with pytest.raises(UserError, match=r"^data.records=.*: is the folder that is taken over; name another"):
        prepare_records(again)
    capsys.readouterr()
    command = ["--mode=prepare", "--config.data.kind=records", f"--config.data.videos={source.data.records}"]
    refused(capsys, command, "data.codec=jpeg: data.kind=records stores flow of records as coefficients; set it to dct")
    refused(
        capsys,
        [*command, "--config.data.codec=dct", "--config.data.dct_planes=28", f"--config.data.records={tmp_path / 'x'}"],
        "data.dct_planes=28: data.kind=records takes over all coefficients of the JPEGs; set it to 64",
    )
    refused(
        capsys,
        [
            "--mode=prepare",
            "--config.data.kind=records",
            f"--config.data.videos={tmp_path}",
            "--config.data.codec=dct",
            f"--config.data.records={tmp_path / 'x'}",
        ],
        f"data.videos={tmp_path}: holds no dataset.json; data.kind=records takes over a folder that --mode=prepare wrote",
    )
