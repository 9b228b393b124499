"""The quality of Brox's flow on pairs with ground truth, beside OpenCV's methods computed in the same run."""

import numpy as np
import pytest
from known_flow import end_point_error, read_truths

from input_pipeline.opencv_flow import compute_flow, grey
from twostream_jax import flow

pytestmark = pytest.mark.slow

METHODS = ("tvl1", "deepflow", "dis", "farneback")


@pytest.fixture(scope="module")
def truths(data_dir):
    return read_truths(data_dir)


def errors(truths, compute):
    """Return the end-point errors [pairs] of `compute(frame0, frame1)`, RGB in."""
    fields = [(compute(frame0, frame1), want) for frame0, frame1, want in truths.values()]
    return np.array([end_point_error(got, want) for got, want in fields])


@pytest.fixture(scope="module")
def errors_of_opencv(truths):
    return {
        method: errors(truths, lambda a, b, method=method: compute_flow(np.stack([a, b]), method)[0])
        for method in METHODS
    }


def brox(frame0, frame1):
    return np.asarray(flow.brox(frame0[None], frame1[None]))[0]


@pytest.mark.parametrize("colour", [False, True])
def test_end_point_error_beside_opencvs(truths, errors_of_opencv, colour):
    got = errors(truths, brox if colour else lambda a, b: brox(*grey(np.stack([a, b]))))
    print("\nBrox", "colour" if colour else "grey", got.round(3), got.mean().round(3))
    for method, theirs in errors_of_opencv.items():
        print(method, theirs.round(3), theirs.mean().round(3))
    assert got.mean() <= 1.05 * errors_of_opencv["deepflow"].mean()
    assert (got < errors_of_opencv["tvl1"]).sum() >= 3
    assert (got < errors_of_opencv["farneback"]).all()
