"""The report over splits: mean, spread and pooled interval by hand."""

import json

import pytest

from twostream_jax.metrics import wilson_interval
from twostream_jax.report.splits import write_splits_report


def entry(split, correct, videos):
    return {
        "accuracy": correct / videos, "correct": correct, "videos": videos, "interval95": [0, 1],
        "protocol": "25x10", "task": "fight", "split": split, "folds": 3, "subset": "test",
    }  # fmt: skip


def test_mean_and_spread_over_splits(tmp_path):
    reports = [
        {
            "chance": 0.5,
            "largest_class": largest,
            "data": {"name": "fight"},
            "spatial": entry(split, spatial, videos),
            "temporal": entry(split, temporal, videos),
            "fusion": {"average": temporal / videos},
            "fusion_detail": {"average": entry(split, temporal, videos)},
        }
        for split, spatial, temporal, videos, largest in [(1, 5, 8, 10, 0.6), (2, 6, 9, 10, 0.5), (3, 10, 14, 20, 0.7)]
    ]
    report = write_splits_report(tmp_path, title="three", reports=reports)
    assert report == json.loads((tmp_path / "report.json").read_text())
    # .8, .9, .7: mean .8, deviation sqrt((0 + .01 + .01) / 2) = .1; pooled 31 of 40.
    assert report["temporal"]["accuracy"] == pytest.approx(0.8)
    assert report["temporal"]["spread"] == pytest.approx(0.1)
    assert (report["temporal"]["correct"], report["temporal"]["videos"]) == (31, 40)
    assert report["temporal"]["interval95"] == pytest.approx(wilson_interval(31, 40))
    assert report["fusion"]["average"] == pytest.approx(0.8) and report["largest_class"] == pytest.approx(0.6)
    text = (tmp_path / "report.md").read_text()
    assert "| temporal | fight 3 folds test | `25x10` | **80.0** | 10.0 | 31/40" in text
    assert "| pooled, 95 % | fold 1 (n) | fold 2 (n) | fold 3 (n) |" in text and "whole test videos of fight" in text
    assert {key: report["temporal"][key] for key in ("protocol", "task", "folds", "subset", "splits")} == {
        "protocol": "25x10", "task": "fight", "folds": 3, "subset": "test", "splits": 3,
    }  # fmt: skip
    assert "80.0 (10) | 90.0 (10) | 70.0 (20) |" in text and "split3/report.md" in text
