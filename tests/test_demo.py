"""What the demo does by itself; its whole run is in test_end_to_end.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from input_pipeline.schema import UserError
from twostream_jax.drivers import demo, evaluate

ENTRY = {
    "protocol": "4x10", "task": "videos", "split": 1, "folds": 0, "subset": "test", "videos": 9, "correct": 3,
    "accuracy": 1 / 3, "interval95": [0.1, 0.6],
}  # fmt: skip


def test_without_an_svm_the_average_remains(monkeypatch, capsys):
    def fuse(test, train, folder):
        if train:
            raise UserError("every training video is of one class")
        return {"average": test}

    monkeypatch.setattr(demo, "fuse", fuse)
    assert demo._fused(["a", "b"], ["c"], Path()) == {"average": ["a", "b"]}
    assert "no SVM: every training video is of one class" in capsys.readouterr().out


def test_the_pictures_show_the_moment_of_most_motion(config):
    config.input.streams, config.model.name = ("rgb",), "cnn_m_spatial"
    samples = demo._flow_samples(config)
    assert [title for title, *_ in samples] == [
        f"{name}_g03" for name in ("blue-bob", "blue-swing", "green-swing", "red-swing")
    ]
    for _, frame, flow in samples:
        assert frame.shape == (48, 60, 3) and flow.shape == (48, 60, 2)
        assert flow.std() > 0.3  # px; the disc moves 2.5 to 3.5 px and covers a sixth of the frame


@pytest.mark.parametrize("damage", ["", "[1]", '{"protocol": "4x10"}', "[" * 100_000, "\xff"])
def test_a_damaged_evaluation_is_made_anew(config, tmp_path, monkeypatch, damage):
    dataset = SimpleNamespace(name="videos", checksum="c")
    made = {"task": "videos", "protocol": "4x10", "checkpoint": 6, "4x10": ENTRY}
    provenance = {"records": {"checksum": "c"}, "step": 6}
    monkeypatch.setattr(evaluate.ScoreFile, "read", lambda path: SimpleNamespace(provenance=provenance))
    monkeypatch.setattr(demo, "evaluate", lambda config, workdir: "new")
    (tmp_path / "scores_videos_split1_test.npz").touch()
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(made))
    assert demo._evaluated(config, tmp_path, dataset) == made
    path.write_bytes(damage.encode("latin-1"))
    assert demo._evaluated(config, tmp_path, dataset) == "new"


def test_one_nets_folder_is_refused(config, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the run of one net"):
        demo.demo(config, tmp_path)
