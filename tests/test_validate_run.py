"""What a checkpoint must have in common with the records it is used with."""

import base64
import hashlib

import pytest

from input_pipeline.schema import UserError
from twostream_jax import validate_run

FACTS = {
    "name": "toy",
    "checksum": "ab" * 32,
    "videos": 27,
    "short_side": 48,
    "flow": {"method": "dis", "bound_px": 8.0, "opencv_version": "5.0"},
}


def test_the_same_records_pass():
    validate_run.check_same_records(FACTS, FACTS, "w", "data", "r")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "other"}, "name was toy, is other;"),
        ({"videos": 28, "checksum": "cd" * 32}, "videos was 27, is 28;"),
        ({"short_side": 64}, "short_side was 48, is 64;"),
        ({"flow": FACTS["flow"] | {"bound_px": 20.0}}, "flow.bound_px was 8.0, is 20.0;"),
        ({"checksum": "cd" * 32}, f"checksum was {'ab' * 20}, is {'cd' * 20};"),
        ({"flow": None}, "flow.method was dis, is none;"),
    ],
)
def test_each_changed_fact_is_named(change, told):
    with pytest.raises(UserError) as caught:
        validate_run.check_same_records(FACTS, FACTS | change, "w", "data", "r")
    assert str(caught.value).startswith("data.records=r: not the records that the run in w began with: ")
    assert told in str(caught.value) and ("checksum" in str(caught.value)) == (list(change) == ["checksum"])


def test_fingerprints_are_of_the_names_whatever_their_order():
    ours = [base64.b64encode(hashlib.sha256(name).digest()[:6]).decode() for name in (b"a/x", "é/y".encode())]
    assert (
        validate_run.fingerprints(["é/y", "a/x"]) == "".join(sorted(ours)) == validate_run.fingerprints(["a/x", "é/y"])
    )
    assert validate_run.fingerprints([]) == "" and all(len(each) == 8 for each in ours)


def test_videos_trained_on_are_refused_and_others_pass():
    trained = validate_run.fingerprints(f"c/{i}" for i in range(1000))
    validate_run.check_unseen(trained, (f"d/{i}" for i in range(1000)), "test", "w", "data", "r")
    # As of a checkpoint that does not remember them.
    validate_run.check_unseen("", ["c/7"], "test", "w", "data", "r")
    with pytest.raises(UserError) as caught:
        validate_run.check_unseen(trained, ["d/1", "c/7", "c/8"], "validation", "w", "data", "r")
    assert str(caught.value) == (
        "eval.subset=validation: the net in w was trained on c/7, which data.records=r now has in its validation videos; "
        "bring back that division and prepare, or train in another --workdir"
    )
