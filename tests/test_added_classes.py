"""HMDB-51 with classes added from UCF-101: which are left out, and the list of both."""

import csv
import io
from pathlib import Path

import pytest

from input_pipeline.added_classes import MEETS, added_classes, merged_csv
from input_pipeline.official_lists import read_hmdb51, read_ucf101
from input_pipeline.schema import UserError
from input_pipeline.video_list import Video, VideoList


def test_78_classes_stay_and_each_left_out_meets_one_of_hmdb51(data_dir):
    ucf, *_ = read_ucf101(data_dir / "splits" / "ucf101")
    hmdb, *_ = read_hmdb51(data_dir / "splits" / "hmdb51")
    assert len(ucf) == 101 and len(hmdb) == 51
    assert len(MEETS) == 23 and set(MEETS) <= set(ucf)
    assert {met for met, _ in MEETS.values()} <= set(hmdb)
    assert all(reason for _, reason in MEETS.values())
    kept = added_classes(ucf, hmdb)
    assert len(kept) == 78 and set(kept) == set(ucf) - set(MEETS)
    # No name of one is, written alike, a name of the other.
    assert not {name.lower() for name in kept} & {name.replace("_", "").lower() for name in hmdb}


def test_a_name_in_both_sets_is_left_out_whatever_its_case():
    assert added_classes(("Wave", "Archery", "YoYo"), ("wave", "run")) == ("YoYo",)


def lists(root: Path) -> tuple[VideoList, VideoList]:
    """Return two lists: wave and run with three stored splits, Wave and YoYo with one."""
    native = [
        Video(f"{name}/{i}", root / "h" / name / f"{i}.avi", label, f"g{i}", subsets)
        for label, name in enumerate(("wave", "run"))
        for i, subsets in enumerate(({"1": "train", "2": "test"}, {"1": "test", "2": "train"}))
    ]
    other = [
        Video(f"{name}/{i}", root / "u" / name / f"{i}.avi", label, f"g{i}", {"1": subset})
        for label, name in enumerate(("Wave", "YoYo"))
        for i, subset in enumerate(("train", "test"))
    ]
    return (
        VideoList("h", "csv", ("wave", "run"), ("1", "2"), tuple(native)),
        VideoList("u", "csv", ("Wave", "YoYo"), ("1",), tuple(other)),
    )


def test_added_videos_train_in_every_split_and_native_ones_keep_theirs(tmp_path):
    text, root = merged_csv(*lists(tmp_path), folds=0, seed=0)
    assert root == tmp_path
    assert list(csv.reader(io.StringIO(text))) == [
        ["path", "label", "group", "split1", "split2"],
        ["h/wave/0.avi", "wave", "h/g0", "train", "test"],
        ["h/wave/1.avi", "wave", "h/g1", "test", "train"],
        ["h/run/0.avi", "run", "h/g0", "train", "test"],
        ["h/run/1.avi", "run", "h/g1", "test", "train"],
        ["u/YoYo/0.avi", "YoYo", "u+/g0", "train", "train"],
        ["u/YoYo/1.avi", "YoYo", "u+/g1", "train", "train"],
    ]


def test_folds_become_written_splits(tmp_path):
    text, _ = merged_csv(*lists(tmp_path), folds=2, seed=0)
    rows = list(csv.DictReader(io.StringIO(text)))
    tests = [{row["group"] for row in rows if row[split] == "test"} for split in ("split1", "split2")]
    assert sorted(map(sorted, tests)) == [["h/g0"], ["h/g1"]]
    assert all(row["split1"] == row["split2"] == "train" for row in rows if row["label"] == "YoYo")


def test_nothing_left_to_add_is_said(tmp_path):
    native, _ = lists(tmp_path)
    with pytest.raises(UserError, match="classes of h cannot be added to h: no class is left"):
        merged_csv(native, native, folds=0, seed=0)
