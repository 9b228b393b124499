"""What the demo does by itself; its whole run is in test_end_to_end.py."""

from pathlib import Path

import pytest

from input_pipeline.schema import UserError
from twostream_jax.drivers import demo


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


def test_one_nets_folder_is_refused(config, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the run of one net"):
        demo.demo(config, tmp_path)
