"""UCF-101 and HMDB-51: the official lists as published, and by hand with the files in every layout."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from input_pipeline.datasets import list_videos
from input_pipeline.official_lists import read_hmdb51, read_ucf101
from input_pipeline.schema import UserError
from input_pipeline.subsets import select


def section(kind: str, **values) -> SimpleNamespace:
    return SimpleNamespace(**{"kind": kind, "classes": (), "allow_missing": False, **values})


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_lists(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text.replace("\n", "\r\n").encode())
    return folder


# --- official lists, the real files -------------------------------------------------------------------------------


def test_ucf101_official_lists_over_a_full_folder(data_dir, tmp_path):
    lists = data_dir / "splits" / "ucf101"
    classes, _, entries = read_ucf101(lists)
    for name in classes:
        (tmp_path / name).mkdir()
    for entry in entries:
        os.close(os.open(tmp_path / f"{entry.name}.avi", os.O_CREAT | os.O_WRONLY))
    listed = list_videos(section("ucf101", videos=str(tmp_path), splits=str(lists)))
    assert (listed.name, listed.kind, listed.splits, len(listed.videos)) == ("ucf101", "ucf101", ("1", "2", "3"), 13320)
    assert len(listed.classes) == 101 and listed.classes[:2] == ("ApplyEyeMakeup", "ApplyLipstick")
    for split, train, test in (("1", 9537, 3783), ("2", 9586, 3734), ("3", 9624, 3696)):
        assert Counter(video.subsets[split] for video in listed.videos) == {"train": train, "test": test}
    assert {video.group for video in listed.videos} == {f"g{k:02d}" for k in range(1, 26)}
    by_name = {video.name: video for video in listed.videos}
    handstand = by_name["HandstandPushups/v_HandStandPushups_g10_c04"]
    assert (handstand.label, handstand.group, handstand.subsets["1"]) == (36, "g10", "train")
    assert [video.name for video in listed.videos] == sorted(by_name)
    chosen = select(listed.videos, split=1, folds=0, validation_fraction=0.1, seed=0)
    assert len(chosen["train"]) + len(chosen["validation"]) == 9537 and len(chosen["test"]) == 3783
    assert len({listed.videos[i].group for i in chosen["validation"]}) == 2  # round(0.1 * 18 training groups)


def test_hmdb51_official_lists(data_dir):
    classes, splits, entries = read_hmdb51(data_dir / "splits" / "hmdb51")
    assert len(classes) == 51 and splits == ("1", "2", "3") and classes == tuple(sorted(classes))
    for split in splits:
        counts = Counter((entry.label, entry.subsets.get(split)) for entry in entries)
        assert all(counts[label, "train"] == 70 and counts[label, "test"] == 30 for label in range(51))
    groups = {entry.name: entry.group for entry in entries}
    assert groups["wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0"] == "50_FIRST_DATES"
    assert groups["brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0"] == "April_09"
    assert all(entry.subsets for entry in entries)


def test_real_ucf101_clips(data_dir):
    options = {"videos": str(data_dir / "ucf101"), "splits": str(data_dir / "splits" / "ucf101")}
    listed = list_videos(section("ucf101", allow_missing=True, **options))
    files = sorted(f"{path.parent.name}/{path.stem}" for path in (data_dir / "ucf101").glob("*/*.avi"))
    assert [video.name for video in listed.videos] == files and len(files) == 72
    assert len(listed.classes) == 101
    with pytest.raises(
        UserError, match=r"54 of 101 .*; in all 13248 of 13320 listed videos are absent, such as ApplyE"
    ):
        list_videos(section("ucf101", **options))


def test_real_hmdb51_clips(data_dir):
    options = {"videos": str(data_dir / "hmdb51"), "splits": str(data_dir / "splits" / "hmdb51")}
    listed = list_videos(section("hmdb51", allow_missing=True, classes=("wave", "cartwheel"), **options))
    assert listed.classes == ("cartwheel", "wave") and listed.name == "hmdb51"
    assert {video.group: video.label for video in listed.videos} == {
        "RATRACE": 1,
        "SchoolRulesHowTheyHelpUs": 1,
        "TrumanShow": 1,
        "Turnk_r_Pippi_Michel": 0,
    }
    assert len(listed.notes) == 1 and "listed videos are absent and left out" in listed.notes[0]


# --- UCF-101 by hand ----------------------------------------------------------------------------------------------

HANDSTAND = "v_HandStandPushups_g08_c01"  # in the folder and class HandstandPushups
CLASSES = "1 Biking\n2 HandstandPushups\n"
TRAIN = "Biking/v_Biking_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\n"
TEST = "Biking/v_Biking_g01_c01.avi\n"


def ucf_lists(tmp_path: Path, **texts: str) -> Path:
    return write_lists(tmp_path / "lists", **{"classInd": CLASSES, "trainlist01": TRAIN, "testlist01": TEST, **texts})


def test_the_published_lists_with_their_flags_or_files_swapped_are_refused(data_dir, tmp_path):
    for file in (data_dir / "splits" / "hmdb51").glob("*_test_split1.txt"):
        flags = str.maketrans({"1": "2", "2": "1"})
        lines = (line.split() for line in file.read_text().splitlines())
        (tmp_path / file.name).write_text("".join(f"{name} {flag.translate(flags)} \n" for name, flag in lines))
    with pytest.raises(UserError, match=r"split 1 has 1530 training and 3570 test videos"):
        read_hmdb51(tmp_path)
    lists = data_dir / "splits" / "ucf101"
    (tmp_path / "classInd.txt").write_bytes((lists / "classInd.txt").read_bytes())
    (tmp_path / "trainlist01.txt").write_bytes((lists / "testlist01.txt").read_bytes())
    (tmp_path / "testlist01.txt").write_bytes((lists / "trainlist01.txt").read_bytes())
    with pytest.raises(UserError, match=r"testlist01\.txt has labels and trainlist01\.txt has none"):
        read_ucf101(tmp_path)


@pytest.mark.parametrize(
    "layout",
    [
        ("Biking/v_Biking_g08_c01.avi", "Biking/v_Biking_g01_c01.avi", f"HandstandPushups/{HANDSTAND}.avi"),
        ("Biking/v_Biking_g08_c01.mp4", "Biking/v_Biking_g01_c01.AVI", f"HandStandPushups/{HANDSTAND.lower()}.avi"),
        ("v_Biking_g08_c01.avi", "v_Biking_g01_c01.avi", f"{HANDSTAND}.avi"),
    ],
    ids=["class folders", "other case and container", "flat"],
)
def test_ucf101_files_are_found_in_any_layout(tmp_path, layout):
    videos = touch(tmp_path / "videos", *layout, "notes.txt")
    listed = list_videos(section("ucf101", videos=str(videos), splits=str(ucf_lists(tmp_path))))
    assert listed.splits == ("1",)
    assert [(v.name, v.path.relative_to(videos).as_posix(), v.label, v.group, v.subsets) for v in listed.videos] == [
        ("Biking/v_Biking_g01_c01", layout[1], 0, "g01", {"1": "test"}),
        ("Biking/v_Biking_g08_c01", layout[0], 0, "g08", {"1": "train"}),
        ("HandstandPushups/v_HandStandPushups_g08_c01", layout[2], 1, "g08", {"1": "train"}),
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"classInd": "0 Biking\n1 HandstandPushups\n"}, r"classInd\.txt line 1: class number 0 where 1 is due"),
        ({"classInd": "1 Biking\nHandstandPushups\n"}, r"classInd\.txt line 2: 'HandstandPushups' is not a class"),
        ({"trainlist01": TRAIN.replace(" 1\n", " 0\n")}, r"trainlist01\.txt line 1: label 0 where .* has 1 for Biking"),
        (
            {"trainlist01": "\n" + TRAIN.replace(" 2", " 1")},
            r"trainlist01\.txt line 3: label 1 where .* has 2 for Hand",
        ),
        ({"testlist01": "Diving/v_Diving_g01_c01.avi\n"}, r"testlist01\.txt line 1: class 'Diving' is not in classInd"),
        (
            {"testlist01": "../Biking/v_Biking_g01_c01.avi\n"},
            r"testlist01\.txt line 1: '\.\./Biking.*' is not an entry",
        ),
        ({"testlist01": "Biking/clip.avi\n"}, r"testlist01\.txt line 1: 'Biking/clip\.avi' is not an entry"),
        (
            {"testlist01": "Biking/v_Biking_g08_c01.avi\n"},
            r"testlist01\.txt line 1: Biking/v_Biking_g08_c01 is also in",
        ),
        (
            {"trainlist01": TEST, "testlist01": TRAIN},
            r"data\.splits=.*lists: testlist01\.txt has labels and trainlist01\.txt has none, .* they were swapped",
        ),
        ({"classInd": "1 Biking\n2 biking\n"}, r"classInd\.txt line 2: the class 'biking' stands there twice"),
        ({"testlist01": "x" * 501}, r"testlist01\.txt line 1: 'x+\.\.\.x+' has 501 characters: take the official"),
        ({"trainlist02": TRAIN}, r"data\.splits: cannot read the list .*testlist02\.txt"),
    ],
)
def test_ucf101_list_errors(tmp_path, texts, message):
    options = {
        "videos": str(touch(tmp_path, "Biking/v_Biking_g01_c01.avi")),
        "splits": str(ucf_lists(tmp_path, **texts)),
    }
    with pytest.raises(UserError, match=message):
        list_videos(section("ucf101", allow_missing=True, **options))


def test_missing_lists_are_named(tmp_path):
    for kind, message in (("ucf101", r"no trainlist01\.txt"), ("hmdb51", r"no <class>_test_split1\.txt")):
        lists = write_lists(tmp_path / kind, classInd=CLASSES)
        with pytest.raises(UserError, match=rf"data\.splits=.*{kind} holds {message}"):
            list_videos(section(kind, videos=str(tmp_path), splits=str(lists)))
    with pytest.raises(UserError, match=r"data\.splits: cannot read the list .*classInd\.txt"):
        list_videos(section("ucf101", videos=str(tmp_path), splits=str(tmp_path)))


def test_two_files_of_one_listed_video_are_refused(tmp_path):
    videos = touch(tmp_path / "v", "Biking/v_Biking_g08_c01.avi", "Biking/v_Biking_g08_c01.mp4")
    with pytest.raises(UserError, match=r"c01\.avi and .*c01\.mp4 would share the name 'Biking/v_Biking_g08_c01'"):
        list_videos(section("ucf101", videos=str(videos), splits=str(ucf_lists(tmp_path)), allow_missing=True))


# --- HMDB-51 by hand ----------------------------------------------------------------------------------------------


def test_hmdb51_flags_by_hand(tmp_path):
    lists = write_lists(
        tmp_path / "lists",
        wave_test_split1="A_wave_f_0.avi 1 \nB_wave_f_0.avi 0 \nC_wave_f_0.avi 0 \n",
        wave_test_split2="A_wave_f_0.avi 2 \nB_wave_f_0.avi 1 \nC_wave_f_0.avi 0 \n",
    )
    videos = touch(tmp_path / "videos", "wave/A_wave_f_0.avi", "wave/B_wave_f_0.avi")
    listed = list_videos(section("hmdb51", videos=str(videos), splits=str(lists)))
    assert [(video.name, video.subsets) for video in listed.videos] == [
        ("wave/A_wave_f_0", {"1": "train", "2": "test"}),
        ("wave/B_wave_f_0", {"2": "train"}),
    ]  # C is unused everywhere, so it is neither listed nor missed


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"wave_test_split1": "A_wave_f_0.avi 3\n"}, r"wave_test_split1\.txt line 1: 'A_wave_f_0\.avi 3' is not an"),
        ({"wave_test_split1": "A_walk_f_0.avi 1\n"}, r"wave_test_split1\.txt line 1: 'A_walk_f_0\.avi 1' is not an"),
        ({"wave_test_split1": "../A_wave_f_0.avi 1\n"}, r"line 1: '\.\./A_wave_f_0\.avi 1' is not an entry"),
        (
            {"wave_test_split1": "A_wave_f_0.avi 1\nA_wave_f_0.avi 2\n"},
            r"line 2: A_wave_f_0 is both train .* in split 1",
        ),
        (
            {"wave_test_split1": "A_wave_f_0.avi 2\nB_wave_f_0.avi 2\nC_wave_f_0.avi 1\n"},
            r"data\.splits=.*: split 1 has 1 training and 2 test videos, .*: flag 1 is train and 2 is test",
        ),
        ({"wave_test_split1": "A_wave_f_0.avi 1\n", "run_test_split2": ""}, r"cannot read the list .*run_test_split1"),
    ],
)
def test_hmdb51_list_errors(tmp_path, texts, message):
    videos = touch(tmp_path / "videos", "wave/A_wave_f_0.avi")
    with pytest.raises(UserError, match=message):
        list_videos(section("hmdb51", videos=str(videos), splits=str(write_lists(tmp_path / "lists", **texts))))
