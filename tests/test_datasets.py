from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_clips import write_clip

from configs import base
from input_pipeline.datasets import list_videos
from input_pipeline.schema import UserError
from input_pipeline.subsets import select
from input_pipeline.video_list import VIDEO_SUFFIXES
from twostream_jax.drivers.prepare import prepare_records


def section(kind: str, **values) -> SimpleNamespace:
    defaults = {
        "videos": "",
        "splits": "",
        "split_file": "",
        "group_column": "group",
        "classes": (),
        "allow_missing": False,
    }
    return SimpleNamespace(kind=kind, **{key: values.get(key, value) for key, value in defaults.items()})


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_csv(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split.csv").write_text(text)
    return folder / "split.csv"


def test_real_csv_files(data_dir):
    weizmann = list_videos(section("csv", split_file=str(data_dir / "weizmann4" / "split.csv"), group_column="actor"))
    assert (weizmann.name, weizmann.splits, len(weizmann.videos)) == ("weizmann4", ("1",), 28)
    assert weizmann.classes == ("bend", "jack", "wave1", "wave2")
    assert {video.group for video in weizmann.videos if video.subsets["1"] == "test"} == {"5", "6"}
    fight = list_videos(section("csv", split_file=str(data_dir / "fight" / "split.csv")))
    assert len(fight.videos) == 192 and fight.classes == ("fight", "noFight")
    assert all((int(video.group) % 4 == 0) == (video.subsets["1"] == "test") for video in fight.videos)
    mini = list_videos(section("csv", split_file=str(data_dir / "ucf101" / "mini6_split1.csv")))
    assert Counter(video.subsets["1"] for video in mini.videos) == {"train": 16, "test": 8}
    assert all(video.group == video.name for video in mini.videos)


def test_real_class_folders(data_dir):
    listed = list_videos(section("folder", videos=str(data_dir / "ucf101")))
    assert len(listed.videos) == 72 and {video.subsets["1"] for video in listed.videos} == {"train"}
    assert {video.name: video.group for video in listed.videos}["Biking/v_Biking_g01_c04"] == "g01"


# --- CSV ----------------------------------------------------------------------------------------------------------


def test_csv_with_several_splits_and_a_folder_of_its_own(tmp_path):
    videos = touch(tmp_path / "clips", "b/1.avi", "a/2.MP4", "a/3.avi", "a/unused.avi")
    absolute = videos / "a" / "3.avi"
    file = write_csv(
        tmp_path / "My Set!",
        "\ufeffpath, label ,split1,split10,split2,scene\n"
        "b/1.avi,jump,train,,test,s1\n"
        f" ./a/2.MP4 ,fall,test,train,,s2\n{absolute},fall,train,test,train,s1\n"
        "a/unused.avi,other,,,,s9\n",
    )
    listed = list_videos(section("csv", split_file=str(file), videos=str(videos), group_column="scene"))
    assert (listed.name, listed.classes, listed.splits) == ("my-set", ("fall", "jump"), ("1", "2", "10"))
    assert [(v.name, v.label, v.group, v.subsets) for v in listed.videos] == [
        ("a/2", 0, "s2", {"1": "test", "10": "train"}),
        ("a/3", 0, "s1", {"1": "train", "2": "train", "10": "test"}),
        ("b/1", 1, "s1", {"1": "train", "2": "test"}),
    ]
    assert listed.videos[0].path == videos / "a" / "2.MP4"


def test_csv_links_inside_the_folder_are_fine(tmp_path):
    elsewhere = touch(tmp_path / "elsewhere", "x.avi")
    file = write_csv(tmp_path / "set", "path,label,split\nx.avi,a,train\n")
    (tmp_path / "set" / "x.avi").symlink_to(elsewhere / "x.avi")
    assert list_videos(section("csv", split_file=str(file))).videos[0].group == "x"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\nx.avi,a\n", {}, r"has no column 'split' \(or split1, split2, \.\.\.\): it has path, label"),
        ("path,split\nx.avi,train\n", {}, r"data\.split_file=.* has no column 'label': it has path, split"),
        ("", {}, r"has no column 'path': it has none"),
        ("path,label,split\n", {}, r"split\.csv lists no videos"),
        ("path,label,split\nx.avi,a,\n", {}, r"split\.csv: no row has a split"),
        ("path,label,split,split1\nx.avi,a,train,test\n", {}, r"has the column 'split' and 'split1'"),
        ("path,label,split\nx.avi,,train\n", {}, r"split\.csv line 2: the column 'label' is empty"),
        ("path,label,split\nx.avi,a,validation\n", {}, r"line 2: split 'validation' is not train, test or empty"),
        ("path,label,split\nx.avi,a,train\n", {"group_column": "actor"}, r"data\.group_column='actor' is no column of"),
        ("path,label,split,group\nx.avi,a,train,\n", {}, r"line 2: column 'group' \(data\.group_column\) is empty"),
        ("path,label,split\n../x.avi,a,train\n", {}, r"line 2: \.\./x\.avi lies outside the videos folder"),
        ("path,label,split\n/etc/x.avi,a,train\n", {}, r"line 2: /etc/x\.avi lies outside the videos folder"),
        ("path,label,split\n.,a,train\n", {}, r"line 2: \. lies outside the videos folder"),
        ("path,label,split\nx.avi,a,train\nx.mp4,b,test\n", {}, r"x\.avi and .*x\.mp4 would share the name 'x'"),
        ("path,label,split\nx.avi,a,train\nx.avi,a,train\n", {}, r"lines 2 and 3 both list x\.avi: keep one"),
        ("path,label,split\nx.avi,a,train\n", {"videos": "/nowhere"}, r"data\.videos=/nowhere is not a folder"),
        (
            "path,label,split\ny.avi,a,train\nx.avi,a,train\n",
            {},
            r"1 of 2 listed videos are absent, such as y: .*missing",
        ),
        ("path,label,split\ny.avi,a,train\n", {"allow_missing": True}, r"data\.split_file=.*: 1 of 1 listed videos"),
    ],
)
def test_csv_errors(tmp_path, text, options, message):
    touch(tmp_path, "x.avi", "x.mp4")
    with pytest.raises(UserError, match=message) as caught:
        list_videos(section("csv", split_file=str(write_csv(tmp_path, text)), **options))
    assert "\n" not in str(caught.value)


def test_csv_absent_or_unreadable(tmp_path):
    with pytest.raises(UserError, match=r"data\.split_file is empty"):
        list_videos(section("csv"))
    with pytest.raises(UserError, match=r"data\.split_file=.*none\.csv cannot be read"):
        list_videos(section("csv", split_file=str(tmp_path / "none.csv")))
    (tmp_path / "binary.csv").write_bytes(b"path,label,split\n\xff\xfe,a,train\n")
    with pytest.raises(UserError, match=r"data\.split_file=.*binary\.csv cannot be read"):
        list_videos(section("csv", split_file=str(tmp_path / "binary.csv")))


def test_classes_and_missing_videos(tmp_path):
    file = write_csv(touch(tmp_path, "x.avi"), "path,label,split\nx.avi,run,train\ny.avi,walk,test\nz.avi,wave,test\n")
    listed = list_videos(section("csv", split_file=str(file), classes=("wave", "run"), allow_missing=True))
    # Alphabetical whatever the order asked for; `wave` stays a class though its one video is absent.
    assert listed.classes == ("run", "wave") and [video.name for video in listed.videos] == ["x"]
    assert listed.notes[-1] == f"data.split_file={file}: 1 of 2 listed videos are absent and left out"
    assert len(list_videos(section("csv", split_file=str(file), classes=("run",))).videos) == 1
    with pytest.raises(UserError, match=r"data\.classes: 'walks' is none of the 3 classes: walk"):
        list_videos(section("csv", split_file=str(file), classes=("walks",)))


# --- class folders ------------------------------------------------------------------------------------------------


def test_plain_class_folders(tmp_path):
    names = [f"run/clip{i}{suffix}" for i, suffix in enumerate(VIDEO_SUFFIXES)]
    root = touch(tmp_path / "Set", *names, "walk/c.MP4", "walk/notes.txt", "walk/._c.avi", ".git/x/a.avi", "docs/a.md")
    listed = list_videos(section("folder", videos=str(root)))
    assert (listed.name, listed.classes, listed.splits) == ("set", ("run", "walk"), ("1",))
    assert [video.name for video in listed.videos] == sorted([n.rsplit(".", 1)[0] for n in names] + ["walk/c"])
    assert all(video.group == video.name and video.subsets == {"1": "train"} for video in listed.videos)
    chosen = select(listed.videos, split=1, folds=3, validation_fraction=0.0, seed=0)
    assert len(chosen["test"]) == 4  # 12 videos, each its own group


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_folders_of_train_and_test(tmp_path, held_out):
    root = touch(tmp_path, "train/run/v_g01_c1.avi", "train/walk/v_g02_c1.avi", f"{held_out}/run/v_g03_c1.avi")
    listed = list_videos(section("folder", videos=str(root)))
    assert {(v.name, v.label, v.group, v.subsets["1"]) for v in listed.videos} == {
        ("train/run/v_g01_c1", 0, "g01", "train"),
        ("train/walk/v_g02_c1", 1, "g02", "train"),
        (f"{held_out}/run/v_g03_c1", 0, "g03", "test"),
    }


def test_folder_errors(tmp_path):
    root = touch(tmp_path / "three", "train/a/x.avi", "val/a/y.avi", "test/a/z.avi")
    with pytest.raises(UserError, match=r"data\.videos=.*three holds test/ and val/ beside train/"):
        list_videos(section("folder", videos=str(root)))
    with pytest.raises(UserError, match=r"data\.videos=.*flat holds no <class>/<video>"):
        list_videos(section("folder", videos=str(touch(tmp_path / "flat", "x.avi"))))
    with pytest.raises(UserError, match=r"a/x\.avi and .*a/x\.mkv would share the name 'a/x'"):
        list_videos(section("folder", videos=str(touch(tmp_path / "twice", "a/x.avi", "a/x.mkv"))))
    with pytest.raises(UserError, match=r"data\.videos is empty: give a folder"):
        list_videos(section("folder"))
    with pytest.raises(UserError, match=r"data\.videos=/nowhere is not a folder"):
        list_videos(section("folder", videos="/nowhere"))


def test_unknown_kind():
    with pytest.raises(
        UserError, match=r"data\.kind='kinetics' is no list of videos: choose one of ucf101, hmdb51, csv"
    ):
        list_videos(section("kinetics"))


# --- official lists -----------------------------------------------------------------------------------------------


def test_absent_class_folders_are_named_before_videos(tmp_path):
    touch(tmp_path / "lists", "x")
    for name, text in {
        "classInd": "1 Biking\n2 Diving\n3 Golf\n",
        "trainlist01": "Biking/v_Biking_g08_c01.avi 1\nDiving/v_Diving_g08_c01.avi 2\nGolf/v_Golf_g08_c01.avi 3\n",
        "testlist01": "Biking/v_Biking_g01_c01.avi\n",
    }.items():
        (tmp_path / "lists" / f"{name}.txt").write_text(text)
    options = {"videos": str(tmp_path / "videos"), "splits": str(tmp_path / "lists")}
    touch(tmp_path / "videos", "Biking/v_Biking_g08_c01.avi")
    words = (
        "2 of 3 class folders are absent, such as Diving, Golf; in all 3 of 4 listed videos are absent, such as "
        "Biking/v_Biking_g01_c01, Diving/v_Diving_g08_c01, Golf/v_Golf_g08_c01: complete them"
    )
    with pytest.raises(UserError, match=words):
        list_videos(section("ucf101", **options))
    listed = list_videos(section("ucf101", allow_missing=True, **options))
    counts = (
        "2 of 3 class folders are absent, such as Diving, Golf; in all 3 of 4 listed videos are absent and left out"
    )
    assert listed.notes == (f"data.videos={tmp_path / 'videos'}: {counts}",)
    # With all files in one folder there is no class folder to miss.
    touch(tmp_path / "flat", "v_Biking_g08_c01.avi")
    with pytest.raises(UserError, match=r"flat: 3 of 4 listed videos are absent, such as"):
        list_videos(section("ucf101", **(options | {"videos": str(tmp_path / "flat")})))


@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_accents_of_official_names_are_matched(tmp_path, in_list):
    on_disk = "NFD" if in_list == "NFC" else "NFC"
    stems = {form: unicodedata.normalize(form, "Café_wave_f_0") for form in ("NFC", "NFD")}
    lists = touch(tmp_path / "lists", "wave_test_split1.txt")
    (lists / "wave_test_split1.txt").write_text(f"{stems[in_list]}.avi 1\n", encoding="utf-8")
    videos = touch(tmp_path / "videos", f"wave/{stems[on_disk]}.avi")
    (video,) = list_videos(section("hmdb51", videos=str(videos), splits=str(lists))).videos
    assert video.path == videos / "wave" / f"{stems[on_disk]}.avi"


# --- what the command prints --------------------------------------------------------------------------------------


def prepare_config(root: Path):
    config = base.get_config()
    config.data.kind, config.data.videos, config.data.records = "folder", str(root), str(root.parent / "records")
    config.flow.method, config.data.short_side, config.input.crop = "dis", 48, 41
    return config


def test_prepare_prints_the_notes(tmp_path, capsys):
    root = touch(tmp_path / "set", "notes.txt")
    write_clip(root / "run" / "x.avi")
    assert prepare_records(prepare_config(root), dry_run=True) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"note: data.videos={root}: left out 1 other file (such as notes.txt)"
    assert lines[1].startswith("set: 1 videos, 4 flow pairs")


def test_prepare_refuses_flow_of_still_images(tmp_path):
    config = prepare_config(touch(tmp_path / "set", "cat/1.jpg"))
    with pytest.raises(UserError, match=r"^flow\.method=dis: set holds still images, which have no flow"):
        prepare_records(config)
