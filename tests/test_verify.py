"""Damaged records are named and made anew, byte for byte."""

import dataclasses
import shutil

import pytest
from tiny_clips import SETTINGS, hashes, run, tiny_list, verify_lines, write_clip

from input_pipeline import dataset_file, opencv_flow, prepare, shards, stages
from input_pipeline.dataset_file import read_dataset
from input_pipeline.schema import UserError
from input_pipeline.store import Records

BACKWARD = dataclasses.replace(SETTINGS, backward=True, bound_px="video")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder with v/ and r/, the videos): six clips, records in several files a folder."""
    folder = tmp_path_factory.mktemp("made")
    videos = tiny_list(folder / "v", count=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 30_000)
        run(videos, folder / "r", BACKWARD)
    return folder, videos


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the records that a test may damage."""
    shutil.copytree(made[0] / "r", tmp_path / "r")
    return tmp_path / "r"


def check(videos, records, settings=BACKWARD):
    return verify_lines(videos, records, settings)


def flip(file, after=b"\xff\xd8\xff", offset=200):
    """Flip all bits of a byte inside the first JPEG."""
    content = bytearray(file.read_bytes())
    content[content.index(after) + offset] ^= 255
    file.write_bytes(content)


def record_file(records, folder, number=0):
    return records / folder / read_dataset(records).files[folder][number].file


def test_sound_records_are_said_to_be_so(made, copy):
    before = hashes(copy)
    files = sum(len(files) for files in read_dataset(copy).files.values())
    assert files > 3
    # Where nothing is damaged the videos are not needed.
    said = []
    prepare.verify(copy, lambda: pytest.fail("listed"), lambda *progress: None, said.append)
    assert said == [f"{copy}: all {files} record files are as they were written"]
    assert hashes(copy) == before


@pytest.mark.parametrize("folder", ["rgb", "flow", "flow_backward"])
def test_a_flipped_byte_is_named_and_repaired(made, copy, folder, monkeypatch):
    before = hashes(copy)
    file = record_file(copy, folder)
    flip(file)
    real, decoded = stages.iterate_frames, []
    monkeypatch.setattr(stages, "iterate_frames", lambda path, side: decoded.append(path.stem) or real(path, side))
    said = check(made[1], copy)
    assert said == [
        f"{file}: is damaged",
        "  a/clip0: 1 records (0)",
        f"{copy}: 1 record files repaired, byte for byte as they were written",
    ]
    assert decoded == ["clip0"]
    assert hashes(copy) == before


def test_damage_to_the_frames_computes_no_flow(made, copy, monkeypatch):
    flip(record_file(copy, "rgb"))
    monkeypatch.setattr(opencv_flow, "flow_of_pairs", None)
    assert "repaired" in check(made[1], copy)[-1]


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "garbage", "longer"])
def test_a_file_that_is_no_record_file_any_more_is_repaired(made, copy, how):
    before = hashes(copy)
    file = record_file(copy, "flow", number=1)
    content = file.read_bytes()
    damaged = {"empty": b"", "truncated": content[:-100], "garbage": b"x" * len(content), "longer": content + b"x" * 10}
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[how])
    said = check(made[1], copy)
    words = {"missing": "is missing", "longer": "is damaged outside its records"}
    assert said[0] == f"{file}: {words.get(how, 'is damaged')}" or how == "longer"
    if how not in ("longer",):
        assert len(said) > 2 and said[1].startswith("  ") and "all records" in said[1]
    assert hashes(copy) == before


def test_damage_in_several_files_at_once(made, copy):
    before = hashes(copy)
    flip(record_file(copy, "rgb", 0))
    record_file(copy, "rgb", 1).unlink()
    flip(record_file(copy, "flow_backward", 0), offset=150)
    assert "3 record files repaired" in check(made[1], copy)[-1]
    assert hashes(copy) == before


def test_an_interrupted_repair_continues(made, copy, monkeypatch):
    before = hashes(copy)
    record_file(copy, "flow", 0).unlink()
    record_file(copy, "flow", 1).unlink()
    real = prepare.verification.shards.write_shard

    def stop(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare.verification.shards, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            check(made[1], copy)
    said = check(made[1], copy)
    assert "1 record files repaired" in said[-1]
    assert hashes(copy) == before


def test_the_files_of_tensorflow_datasets_are_written_anew(made, copy):
    before = hashes(copy)
    (copy / "flow" / "features.json").write_text("{")
    (copy / "rgb" / "dataset_info.json").unlink()
    assert check(made[1], copy)[1:] == [
        f"{copy / 'rgb' / 'dataset_info.json'}: written anew",
        f"{copy / 'flow' / 'features.json'}: written anew",
    ]
    assert hashes(copy) == before


def test_edited_dataset_json_is_refused(made, copy):
    file = copy / "dataset.json"
    file.write_text(file.read_text().replace('"label": 0', '"label": 1', 1))
    with pytest.raises(
        UserError, match=r"dataset\.json: its content does not fit its checksum, it was edited or damaged"
    ):
        check(made[1], copy)


def test_what_cannot_be_repaired_is_said(made, copy):
    file = record_file(copy, "flow", 0)
    flip(file)
    damaged = file.read_bytes()
    videos = made[1]
    without = dataclasses.replace(videos, videos=videos.videos[1:])
    with pytest.raises(UserError, match=r"r: cannot all be repaired: a/clip0 is not in the list of videos; copy the"):
        check(without, copy)
    moved = dataclasses.replace(videos.videos[0], path=made[0] / "nowhere.avi")
    with pytest.raises(
        UserError, match=r"cannot all be repaired: .*nowhere\.avi has 0 bytes, its records were made of \d+"
    ):
        check(dataclasses.replace(videos, videos=(moved, *videos.videos[1:])), copy)
    with pytest.raises(UserError, match=r"was prepared otherwise: flow\.method is dis there and farneback now"):
        check(videos, copy, dataclasses.replace(BACKWARD, method="farneback"))
    assert file.read_bytes() == damaged


def test_a_video_of_the_same_size_and_other_content_repairs_nothing(made, copy, tmp_path):
    file = record_file(copy, "flow", 0)
    flip(file)
    damaged = file.read_bytes()
    original = made[1].videos[0].path
    other = write_clip(tmp_path / "other.avi", frames=4, seed=9)
    # AVI readers pass over what follows the last chunk.
    size = original.stat().st_size
    content = other.read_bytes()
    assert len(content) < size + 4096
    if len(content) > size:
        other = write_clip(tmp_path / "other.avi", frames=3, seed=9)
        content = other.read_bytes()
    other.write_bytes(content + b"\0" * (size - len(content)))
    replaced = dataclasses.replace(made[1].videos[0], path=other)
    videos = dataclasses.replace(made[1], videos=(replaced, *made[1].videos[1:]))
    with pytest.raises((UserError, OSError), match=r"cannot all be repaired|records of .* are damaged"):
        check(videos, copy)
    assert file.read_bytes() == damaged


def test_a_video_that_cannot_be_decoded_any_more_repairs_nothing(made, copy, tmp_path):
    flip(record_file(copy, "rgb", 0))
    zeros = tmp_path / "zeros.avi"
    zeros.write_bytes(b"\0" * made[1].videos[0].path.stat().st_size)
    replaced = dataclasses.replace(made[1].videos[0], path=zeros)
    with pytest.raises(UserError, match=r"cannot all be repaired: a/clip0: cannot be opened as a video; copy the"):
        check(dataclasses.replace(made[1], videos=(replaced, *made[1].videos[1:])), copy)


def test_flow_of_another_opencv_is_not_made_for_a_repair(made, copy):
    dataset = read_dataset(copy)
    older = dataclasses.replace(dataset, flow=dataclasses.replace(dataset.flow, opencv_version="4.0.1"))
    (copy / "dataset.json").write_text(dataset_file.format_dataset(older))
    flip(record_file(copy, "flow", 0))
    with pytest.raises(UserError, match=r"is by OpenCV 4\.0\.1, repaired records would get that of"):
        check(made[1], copy)
    flip(record_file(copy, "flow", 0))  # undone
    flip(record_file(copy, "rgb", 0))
    assert "1 record files repaired" in check(made[1], copy)[-1]


def test_every_record_can_be_checked_alone(made, copy):
    records = Records(copy)
    for folder in ("rgb", "flow", "flow_backward"):
        records.check(folder, 2, 0)
    dataset = records.dataset
    first = dataclasses.replace(dataset.videos[0], height=16)
    (copy / "dataset.json").write_text(
        dataset_file.format_dataset(dataclasses.replace(dataset, videos=(first, *dataset.videos[1:])))
    )
    with pytest.raises(UserError, match=r"a/clip0, record 1: is 48x32 px, dataset\.json says 48x16"):
        Records(copy).check("flow", 0, 1)


def test_what_can_be_repaired_is_even_where_another_cannot(made, copy):
    before = hashes(copy)
    record_file(copy, "rgb", 1).unlink()
    flip(record_file(copy, "flow", 0))
    videos = dataclasses.replace(made[1], videos=made[1].videos[1:])
    with pytest.raises(UserError, match=r"cannot all be repaired: a/clip0 is not in the list of videos; copy"):
        check(videos, copy)
    after = hashes(copy)
    assert {path.split("/")[0] for path in before if after.get(path) != before[path]} == {"flow"}


def test_swapped_class_names_are_noticed(made, copy):
    file = copy / "dataset.json"
    file.write_text(file.read_text().replace('["left", "right"]', '["right", "left"]'))
    with pytest.raises(UserError, match=r"dataset\.json: its content does not fit its checksum"):
        Records(copy)
