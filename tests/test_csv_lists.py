"""CSVs as people write them: separators, case, duplicates, leaks, accents, and names that would break things."""

from __future__ import annotations

import os
import unicodedata

import pytest
from test_datasets import section, touch, write_csv

from input_pipeline.datasets import list_videos
from input_pipeline.schema import UserError
from input_pipeline.video_list import Video

NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def read(folder, text, **options):
    return list_videos(section("csv", split_file=str(write_csv(folder, text)), **options))


def plain(listed) -> list[tuple]:
    return [(v.name, listed.classes[v.label], v.group, v.subsets) for v in listed.videos]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_header_case_blanks_and_separators(tmp_path, delimiter, end):
    touch(tmp_path, "x.avi", "y,1.avi")
    lines = ['\ufeffPath, "LABEL" ,Split, Scene', "x.avi,run,Train,s1", '"y;1.avi",run,TEST ,s2']
    text = end.join(line.replace(",", delimiter).replace("y;1", "y,1") for line in lines) + end
    wanted = [("x", "run", "s1", {"1": "train"}), ("y,1", "run", "s2", {"1": "test"})]
    assert plain(read(tmp_path, text, group_column=" SCENE")) == wanted


def test_labels_that_are_numbers_stay_names(tmp_path):
    touch(tmp_path, "x.avi", "y.avi", "z.avi")
    listed = read(tmp_path, "path,label,split\nx.avi,10,train\ny.avi,02,train\nz.avi,2,train\n")
    assert listed.classes == ("02", "10", "2") and [v.label for v in listed.videos] == [1, 0, 2]


def test_short_rows_and_empty_lines(tmp_path):
    touch(tmp_path, "x.avi")
    listed = read(tmp_path, "path,label,split,note\n\nx.avi,a,train\n,,,\n")
    assert plain(listed) == [("x", "a", "x", {"1": "train"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path|label|split\nx.avi|a|train\n", r"has no column 'path': it has path\|label\|split$"),
        ("path,Path,label,split\nx.avi,y.avi,a,train\n", r"has two columns 'path': rename one"),
        (
            "path,label,split\nx.avi,a,train\n./x.avi,a,test\n",
            r"split\.csv lines 2 and 3 both list \./x\.avi: keep one",
        ),
        ("path,label,split\nx.avi,Jump,train\ny.avi,jump,train\n", r"a class is spelt both 'Jump' and 'jump'"),
        ("path,label,split\nx.avi,a,train,\ny,1.avi,a,train\n", r"line 3: has more values than columns; put a value"),
        ("path,label,split\nx\0.avi,a,train\n", r"line 2: the column 'path' holds a control character: 'x\\x00\.avi'"),
        (
            'path,label,split\n"x\ny.avi",a,train\n',
            r"line 3: the column 'path' holds a control character: 'x\\ny\.avi'",
        ),
        ("path,label,split\nx.avi,a\x1b[0m,train\n", r"line 2: the column 'label' holds a control character"),
        (f"path,label,split\n{'x' * 5000}.avi,a,train\n", r"line 2: the column 'path' has 5004 characters: quotes"),
        (f"path,label,split\n{'x' * 200_000}.avi,a,train\n", r"split\.csv cannot be read: field larger than"),
        (f"path,label,split\n{'x' * 300}.avi,a,train\n", r"1 of 1 listed videos are absent"),
        ("path,label,split\nx.avi,a,train\nz.jpg,a,train\n", r"line 2 names a video and line 3 an image: a set holds"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    touch(tmp_path, "x.avi", "y.avi", "z.jpg")
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content", ["path,label,split\nx.avi,é,train\n".encode(code) for code in ("latin-1", "utf-16")]
)
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"split\.csv cannot be read, save it as UTF-8") as caught:
        list_videos(section("csv", split_file=str(tmp_path / "split.csv")))
    assert "\n" not in str(caught.value)


def test_notes_on_leaks_and_on_classes_that_lack_a_part(tmp_path):
    touch(tmp_path, *(f"{name}.avi" for name in "abcdef"))
    listed = read(
        tmp_path,
        "path,label,split1,split2,group\na.avi,run,train,train,s1\nb.avi,run,test,train,s1\nc.avi,walk,train,,s2\n"
        "d.avi,wave,test,,s3\ne.avi,run,train,test,s4\nf.avi,run,test,train,s4\n",
    )
    assert listed.notes == (
        "split 1: classes with test but no train videos: 1, such as wave",
        "split 1: classes with train but no test videos: 1, such as walk",
        "split 1: groups both in train and test: 2, such as s1, s4; the test videos are not all from sources of "
        "their own",
        "split 2: groups both in train and test: 1, such as s4; the test videos are not all from sources of their own",
    )


def test_a_clean_list_has_no_notes(tmp_path):
    touch(tmp_path, "a.avi", "b.avi")
    assert read(tmp_path, "path,label,split\na.avi,run,train\nb.avi,run,test\n").notes == ()


# --- names on disk ------------------------------------------------------------------------------------------------


def test_absolute_paths_may_name_the_folder_by_a_link(tmp_path):
    real = touch(tmp_path / "disk", "a/x.avi")
    (tmp_path / "link").symlink_to(real)
    text = f"path,label,split\n{real}/a/x.avi,run,train\n"
    listed = read(tmp_path / "list", text, videos=str(tmp_path / "link"))
    assert [(v.name, v.path) for v in listed.videos] == [("a/x", tmp_path / "link" / "a" / "x.avi")]


def test_dots_stay_inside_the_folder(tmp_path):
    touch(tmp_path, "a/x.avi", "y.avi")
    listed = read(tmp_path, "path,label,split\na/../a/./x.avi,run,train\na/../y.avi,run,train\n")
    assert [v.name for v in listed.videos] == ["a/x", "y"]


@pytest.mark.parametrize("on_disk", [(NFC, NFC), (NFC, NFD), (NFD, NFC), (NFD, NFD)])
@pytest.mark.parametrize("in_list", [NFC, NFD])
def test_accents_are_matched_however_they_are_spelt(tmp_path, on_disk, in_list):
    root = touch(tmp_path / NFD, f"{on_disk[0]}/{on_disk[1]}.avi")
    listed = read(root, f"path,label,split\n{in_list}/{in_list}.avi,{in_list},train\n")
    assert plain(listed) == [(f"{NFC}/{NFC}", NFC, f"{NFC}/{NFC}", {"1": "train"})]
    assert listed.videos[0].path == root / on_disk[0] / f"{on_disk[1]}.avi"


def test_one_class_in_two_spellings_of_its_accent_is_one(tmp_path):
    touch(tmp_path, "x.avi", "y.avi")
    assert read(tmp_path, f"path,label,split\nx.avi,{NFC},train\ny.avi,{NFD},train\n").classes == (NFC,)


def test_odd_names_are_fine(tmp_path):
    names = [
        "-rf.avi",
        "a b.avi",
        "--x=y.avi",
        "日本　語.avi",
        "%s{0}$HOME.avi",
        "a'b\"c.avi",
        "UPPER.AVI",
        "upper.avi",
    ]
    touch(tmp_path, *names)
    quoted = "".join('"{}",run,train\n'.format(name.replace('"', '""')) for name in names)
    listed = read(tmp_path, f"path,label,split\n{quoted}")
    assert {v.name for v in listed.videos} == {name.rsplit(".", 1)[0] for name in names}
    assert all(isinstance(v, Video) and v.exists() for v in listed.videos)


def test_dangling_links_and_loops_are_absent(tmp_path):
    touch(tmp_path, "x.avi")
    (tmp_path / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    os.symlink(tmp_path, tmp_path / "again")
    text = "path,label,split\nx.avi,a,train\ngone.avi,a,train\nloop.avi,a,train\nagain/again/x.avi,a,train\n"
    with pytest.raises(UserError, match=r"2 of 4 listed videos are absent, such as gone, loop: complete"):
        read(tmp_path, text)
    listed = read(tmp_path, text, allow_missing=True)
    assert [v.name for v in listed.videos] == ["again/again/x", "x"]


def test_rows_of_images_are_still_videos(tmp_path):
    touch(tmp_path, "a/1.JPG", "b/2.png")
    listed = read(tmp_path, "path,label,split\na/1.JPG,cat,train\nb/2.png,dog,test\n")
    assert listed.still and all(v.source.path == v.path and v.source.count_frames() == 1 for v in listed.videos)
