"""Every value of dataset.json is checked when it is read."""

import copy
import json

import pytest
from tiny_clips import run, tiny_list

from input_pipeline.dataset_file import read_dataset
from input_pipeline.schema import UserError


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A sound dataset.json, parsed."""
    folder = tmp_path_factory.mktemp("plain")
    run(tiny_list(folder / "v", count=2), folder / "r", backward=True)
    return json.loads((folder / "r" / "dataset.json").read_text())


def change(plain, path, value):
    """Return a copy with the value at the path, its steps joined by dots, replaced."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    here = plain = copy.deepcopy(plain)
    for step in steps:
        here = here[step]
    here[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("name", "../../x", "name is '../../x', not letters, digits, _ and -"),
        ("name", 5, "name is 5"),
        ("kind", None, "kind is None, not a word"),
        ("checksum", 3, "checksum is 3, not a word"),
        ("classes", ["left", "left"], "classes are not different words"),
        ("classes", [None, "left"], "classes are not different words"),
        ("short_side", 0, "short_side is 0, not a whole number from 1"),
        ("jpeg_quality", "95", "jpeg_quality is '95', not a whole number from 0"),
        ("flow.bound_px", 0, "flow.bound_px is 0, neither px above 0 nor 'video'"),
        ("flow.bound_px", "clip", "flow.bound_px is 'clip'"),
        ("flow.backward", 1, "flow has not a method, an opencv_version and backward"),
        ("counts.frames", -1, "counts are not videos, frames, pairs, quarantined, bytes"),
        ("files.depth", [], "files are of 'depth', none of rgb, flow, flow_backward"),
        (
            "files.rgb.0.file",
            "../../etc/passwd",
            "files of rgb hold '../../etc/passwd', which is no record file's name",
        ),
        ("files.rgb.0.records", 1.5, "has 1.5 records"),
        ("videos.0.label", 7, "video 'a/clip0': label is 7, there are 2 classes"),
        ("videos.0.label", -1, "video 'a/clip0': label is -1, not a whole number from 0"),
        ("videos.0.label", "\0", "label is '\\x00', not a whole number"),
        ("videos.0.frames", "x", "frames is 'x', not a whole number from 1"),
        ("videos.0.frames", True, "frames is True, not a whole number from 1"),
        ("videos.0.frames", 40, "its rgb records (0, 0) lie outside the files"),
        ("videos.1.height", None, "height is None, not a whole number from 1"),
        ("videos.1.width", 0, "video 'b/clip1': width is 0"),
        ("videos.0.source_bytes", "big", "source_bytes is 'big'"),
        ("videos.0.group", 3, "its name or group is not a word"),
        ("videos.0.name", "", "its name or group is not a word"),
        ("videos.0.name", "z", "the videos are not sorted by name, each once"),
        ("videos.0.subsets", [], "subsets are []"),
        ("videos.0.subsets", {"1": "dev"}, "subsets are {'1': 'dev'}"),
        ("videos.0.bound_px", "x", "bound_px is 'x', not px above 0"),
        ("videos.0.bound_px", float("nan"), "bound_px is nan, not px above 0"),
        ("videos.0.bound_px", None, "has flow and no bound_px"),
        ("videos.0.rgb", [5, 0], "its rgb records (5, 0) lie outside the files"),
        ("videos.0.flow", [0, -3], "its flow records (0, -3) lie outside the files"),
        ("videos.0.flow_backward", [], "its flow_backward records () lie outside the files"),
        ("videos", [3], "cannot be read"),
        ("flow", {"method": "dis"}, "cannot be read"),
    ],
)
def test_a_value_that_cannot_be_is_named(tmp_path, plain, path, value, words):
    (tmp_path / "dataset.json").write_text(json.dumps(change(plain, path, value)))
    with pytest.raises(UserError) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'dataset.json'}: ") and words in text and "\n" not in text
    assert text.endswith("delete the folder and run --mode=prepare again")


def test_nesting_without_end_is_one_line(tmp_path):
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"dataset\.json: cannot be read"):
        read_dataset(tmp_path)
