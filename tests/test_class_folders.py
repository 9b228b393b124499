"""Class folders as they lie on disks: stray files, links, accents, and images instead of videos."""

from __future__ import annotations

import os
import unicodedata

import pytest
from test_datasets import section, touch
from unreadable import refuse

from input_pipeline.datasets import list_videos
from input_pipeline.schema import UserError


def read(root, **options):
    return list_videos(section("folder", videos=str(root), **options))


def names(listed) -> list[str]:
    return [video.name for video in listed.videos]


def test_what_is_left_out_is_counted_and_named(tmp_path):
    root = touch(tmp_path / "set", "run/x.avi", "walk/y.avi", "run/deep/z.avi", "run/deep/er/w.mkv", "stray.mp4")
    touch(root, "walk/notes.txt", "walk/._y.avi", ".DS_Store", ".git/config", "LICENSE", "docs/a.md")
    listed = read(root)
    assert names(listed) == ["run/x", "walk/y"] and not listed.still
    assert listed.notes == (
        f"data.videos={root}: left out 3 videos or images outside of class folders (such as stray.mp4, "
        "run/deep/er/w.mkv, run/deep/z.avi), 1 class folder without any (such as docs/), "
        "3 hidden files or folders (such as .DS_Store, .git, walk/._y.avi), "
        "3 other files (such as LICENSE, docs/a.md, walk/notes.txt)",
    )


def test_what_lies_beside_train_and_test_is_named(tmp_path):
    root = touch(tmp_path, "train/run/x.avi", "test/run/y.avi", "extra/run/z.avi", "train/w.avi", "v.avi")
    listed = read(root)
    assert names(listed) == ["test/run/y", "train/run/x"]
    assert listed.notes == (
        f"data.videos={root}: left out 2 videos or images outside of class folders (such as v.avi, train/w.avi), "
        "1 folder beside train and test (such as extra)",
    )


def test_a_clean_set_has_no_notes(tmp_path):
    assert read(touch(tmp_path, "train/a/x.avi", "test/a/y.avi")).notes == ()


def test_classes_that_lack_a_part(tmp_path):
    root = touch(tmp_path, "train/run/x.avi", "test/run/y.avi", "train/walk/z.avi")
    assert read(root).notes == ("split 1: classes with train but no test videos: 1, such as walk",)
    touch(root, "test/wlak/w.avi")
    with pytest.raises(UserError, match=r"data\.videos: the class wlak has test but no train videos: add some, or"):
        read(root)
    assert names(read(root, classes=("run", "walk"))) == ["test/run/y", "train/run/x", "train/walk/z"]


def test_groups_of_ucf101_in_both_parts_are_noted(tmp_path):
    root = touch(tmp_path, "train/a/v_a_g01_c01.avi", "test/a/v_a_g01_c02.avi", "train/a/v_a_g02_c01.avi")
    assert read(root).notes[0].startswith("split 1: groups both in train and test: 1, such as g01;")


def test_class_folders_that_differ_in_case_are_refused(tmp_path):
    root = touch(tmp_path, "train/Jump/x.avi", "test/jump/y.avi")
    with pytest.raises(UserError, match=r"data\.videos=.*: a class is spelt both 'Jump' and 'jump': choose one"):
        read(root)


def test_videos_that_differ_in_case_are_two(tmp_path):
    assert names(read(touch(tmp_path, "a/X.avi", "a/x.avi"))) == ["a/X", "a/x"]


def test_videos_that_differ_in_suffix_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a/x\.avi and .*a/x\.mp4 would share the name 'a/x': rename or remove one"):
        read(touch(tmp_path, "a/x.avi", "a/x.mp4"))


def test_accents_of_train_and_test_may_be_spelt_differently(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    listed = read(touch(tmp_path, f"train/{nfd}/x{nfd}.avi", f"test/{nfc}/y.avi"))
    assert listed.classes == (nfc,) and names(listed) == [f"test/{nfc}/y", f"train/{nfc}/x{nfc}"]
    assert all(video.exists() for video in listed.videos)
    touch(tmp_path, f"train/{nfc}/x{nfc}.avi")
    with pytest.raises(UserError, match="would share the name"):
        read(tmp_path)


# --- links --------------------------------------------------------------------------------------------------------


def test_links_to_files_and_class_folders_are_followed(tmp_path):
    real = touch(tmp_path / "disk", "x.avi", "run/y.avi")
    root = touch(tmp_path / "set", "walk/z.avi")
    (root / "walk" / "x.avi").symlink_to(real / "x.avi")
    (root / "run").symlink_to(real / "run")
    assert names(read(root)) == ["run/y", "walk/x", "walk/z"]


def test_loops_are_not_walked(tmp_path):
    root = touch(tmp_path, "run/x.avi", "run/deep/y.avi")
    (root / "run" / "up").symlink_to(root)
    (root / "run" / "deep" / "up").symlink_to(root)
    listed = read(root)
    assert (
        names(listed) == ["run/x"]
        and "1 video or image outside of class folders (such as run/deep/y.avi)" in listed.notes[0]
    )


@pytest.mark.parametrize(("link", "target"), [("again", "run"), ("self", "."), ("train", "test")])
def test_two_names_of_one_folder_are_refused(tmp_path, link, target):
    root = touch(tmp_path, "run/x.avi", "test/run/y.avi")
    (root / link).symlink_to(root / target)
    with pytest.raises(UserError, match=r"data\.videos: .* and .* are one folder: remove the link"):
        read(root)


def test_dangling_links_are_absent(tmp_path):
    root = touch(tmp_path, "run/x.avi")
    (root / "run" / "gone.avi").symlink_to(root / "nowhere.avi")
    with pytest.raises(UserError, match=r"1 of 2 listed videos are absent, such as run/gone: complete them"):
        read(root)
    assert names(read(root, allow_missing=True)) == ["run/x"]


def test_links_that_lead_back_to_themselves_are_no_folders(tmp_path):
    root = touch(tmp_path / "set", "run/x.avi")
    for place in (root / "loop", root / "run" / "loop"):
        place.symlink_to(place)
    listed = read(root)
    assert names(listed) == ["run/x"]
    assert listed.notes == (f"data.videos={root}: left out 2 other files (such as loop, run/loop)",)
    (root / "run" / "y.avi").symlink_to(root / "run" / "y.avi")
    with pytest.raises(UserError, match=r"1 of 2 listed videos are absent, such as run/y: complete them"):
        read(root)


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    root = touch(tmp_path / "set", "train/run/x.avi", "train/walk/y.avi", "test/run/z.avi")
    refuse(monkeypatch, root / "train" / "walk")
    listed = read(root)
    assert names(listed) == ["test/run/z", "train/run/x"]
    assert listed.notes == (f"data.videos={root}: left out 1 folder that cannot be read (such as train/walk/)",)
    for folder in (root / "train", root):
        refuse(monkeypatch, folder)
        with pytest.raises(UserError) as caught:
            read(root)
        assert str(caught.value).startswith(f"data.videos={folder} cannot be read (Permission denied): mend its perm")


def test_train_without_test_is_said(tmp_path):
    root = touch(tmp_path / "set", "train/run/x.avi", "train/walk/y.avi")
    with pytest.raises(UserError) as caught:
        read(root)
    assert str(caught.value) == (
        f"data.videos={root} holds no <class>/<video>: train/ wants test/ or val/ beside it; without one, set "
        f"data.videos={root}/train"
    )
    assert names(read(root / "train")) == ["run/x", "walk/y"]


def test_a_folder_named_as_a_video_is_none(tmp_path):
    listed = read(touch(tmp_path, "run/x.avi", "run/y.avi/frame.txt"))
    assert names(listed) == ["run/x"]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1bb", "a\u2028b", "a\udcffb"])
def test_names_that_would_break_lines_are_refused(tmp_path, name):
    root = tmp_path / "set"
    os.makedirs(root / "run")
    try:
        (root / "run" / f"{name}.avi").touch()
    except (OSError, UnicodeEncodeError):
        pytest.skip("this disk refuses such a name by itself")
    with pytest.raises(
        UserError, match=r"data\.videos: 'run/a.*b' has a control character or no UTF-8 in its"
    ) as caught:
        read(root)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isascii()


def test_unfit_names_of_other_files_are_escaped_in_notes(tmp_path):
    root = touch(tmp_path, "run/x.avi", "run/a\nb.txt")
    assert "'run/a\\nb.txt'" in read(root).notes[0] and "\n" not in read(root).notes[0]


# --- images -------------------------------------------------------------------------------------------------------


def test_folders_of_images(tmp_path):
    root = touch(tmp_path, "train/cat/1.jpg", "train/cat/2.JPEG", "train/dog/3.png", "val/dog/4.webp", "val/cat/5.ppm")
    listed = read(root)
    assert listed.still and listed.classes == ("cat", "dog")
    assert [(v.name, v.label, v.subsets["1"]) for v in listed.videos] == [
        ("train/cat/1", 0, "train"),
        ("train/cat/2", 0, "train"),
        ("train/dog/3", 1, "train"),
        ("val/cat/5", 0, "test"),
        ("val/dog/4", 1, "test"),
    ]
    assert all(v.source.path == v.path for v in listed.videos)


def test_videos_beside_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a/x\.avi is a video and .*b/y\.jpg an image: keep one kind, or list"):
        read(touch(tmp_path, "a/x.avi", "b/y.jpg"))


def test_folders_of_frames_are_pointed_to_their_kind(tmp_path):
    root = touch(tmp_path, "run/clip1/frame0001.jpg", "run/clip1/frame0002.jpg")
    with pytest.raises(UserError, match=r"lie deeper, such as run/clip1/frame0001\.jpg; .* is data\.kind=jpeg_folders"):
        read(root)
