"""bench=eval: the peers score the same stacks by the same net, and the table says what was measured."""

import json
import statistics

import numpy as np
import pytest

from input_pipeline import sampling
from input_pipeline.store import Records
from twostream_jax.bench import clips
from twostream_jax.bench import eval as bench_eval
from twostream_jax.bench import run as bench_run
from twostream_jax.bench.scored_videos import left_scores

WITH_TORCH = "the peers are PyTorch: pip install 'twostream-jax[bench]'"


@pytest.fixture
def small(config, one_device):
    """42 px crops of 48x60: the centre's lies at odd offsets, conv1 of the others is computed once a frame."""
    config.input.crop, config.eval.frames, config.eval.batch_size = 42, 3, 4
    return config


@pytest.fixture
def job(small, tmp_path):
    files = clips.jpeg_files(Records(small.data.records), tmp_path / "jpegs")
    return bench_eval.peer_job(small, small.data.records, files)


def test_the_job_names_the_stacks_that_ours_scores(small, job):
    assert len(job.videos) == 2 and job.bound_px == 8.0 and job.normalised == ("conv1",) and job.means
    for video in job.videos:
        assert (video.height, video.width) == (48, 60) and (video.folder / "flow_x_00001.jpg").is_file()
        # Files count from 1: ten frames, fields 1 to 9.
        anchors = sampling.eval_positions(10, 0, 3, 3)
        assert video.stacks == tuple((int(a) + 1, int(a) + 2, int(a) + 3) for a in anchors) and anchors.tolist() == [
            0,
            3,
            6,
        ]
    weights, again = job.weights(), job.weights()
    assert weights.keys() == job.shapes.keys() and "full8_bench" in weights
    for layer, shapes in job.shapes.items():
        for name, shape in shapes.items():
            assert weights[layer][name].shape == shape and weights[layer][name].dtype == np.float32
            np.testing.assert_array_equal(weights[layer][name], again[layer][name])


@pytest.mark.parametrize(("dtype", "means"), [("float32", True), ("float32", False), ("bfloat16", True)])
def test_all_give_the_same_scores(small, tmp_path, monkeypatch, dtype, means):
    torch = pytest.importorskip("torch", reason=WITH_TORCH)
    from twostream_jax.bench import torch_eval

    for module in (bench_eval, torch_eval):  # which would be for all tests that follow
        monkeypatch.setattr(module, "keep_freed_memory", lambda: True)
    small.input.mean_subtraction, small.train.dtype = means, dtype
    files = clips.jpeg_files(Records(small.data.records), tmp_path / "jpegs")
    job = bench_eval.peer_job(small, small.data.records, files)
    found = {}
    for who in (bench_eval.OURS, bench_eval.USUAL, "PyTorch, tuned"):
        ours = who == bench_eval.OURS
        left = tmp_path / "left.npz"
        run, facts = (
            bench_eval.our_scorer(small, small.data.records, job, left)
            if ours
            else bench_eval.torch_scorer(job, left, who)
        )
        run()
        found[who], peak = left_scores(left)
        assert facts["batch"] and peak > 1e8
        np.testing.assert_allclose(found[who].sum(axis=1), 1, rtol=1e-5)
    apart = bench_eval.scores_compared(found, bench_eval.TOLERANCE[dtype])
    assert apart[bench_eval.OURS] == 0 < apart[bench_eval.USUAL]
    # Another mirror, or a stack that begins a field later, would be seen.
    net, video = torch_eval._net(job), job.videos[0]
    upright = torch_eval.usual_video(net, video, job)
    later = torch_eval.VideoStacks(video.folder, (*video.stacks[:2], (6, 7, 8)), 48, 60)
    assert np.abs(torch_eval.usual_video(net, later, job) - upright).max() > 10 * bench_eval.TOLERANCE["float32"]
    with torch.inference_mode():
        (five_stacks,) = torch_eval._tuned_batches(video, job, torch.device("cpu"))
    assert five_stacks.shape == (30, 6, 42, 42)


def test_scores_that_differ_or_say_nothing_are_refused():
    ours = np.float64([[0.2, 0.8], [0.8, 0.2]])
    near = ours + np.float64([[0.01, -0.01], [0, 0]])
    assert bench_eval.scores_compared({"twostream-jax": ours, "peer": near}, 0.0101)["peer"] == pytest.approx(0.01)
    with pytest.raises(AssertionError):
        bench_eval.scores_compared({"twostream-jax": ours, "peer": near}, 0.0099)
    alike = ours * 0.01
    with pytest.raises(AssertionError):
        bench_eval.scores_compared({"twostream-jax": alike, "peer": alike + 0.005}, 0.0099)


@pytest.mark.slow
def test_the_bench_prints_its_table_and_leaves_every_round(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_run, "ROUNDS", 2)
    monkeypatch.setattr(bench_eval, "TUNED", {"PyTorch, tuned": False})
    result = bench_run.bench(["eval"], small, tmp_path)["benches"]["eval"]
    stored = json.loads((tmp_path / "bench.json").read_text())["benches"]["eval"]
    assert stored == json.loads(json.dumps(result))
    assert result["videos"] == 2 and result["stacks"] == 6 and result["sizes"] == ["60x48"]
    ours = result["wall_s"]["twostream-jax"]
    assert len(ours) == 2 and result["videos_per_second"]["twostream-jax"] == 2 / statistics.median(ours)
    said = capsys.readouterr().out
    assert (
        "eval: cnn_m_temporal, float32, 2 videos of 60x48 px, 6 stacks x 10 crops a round; a sample is a stack" in said
    )
    for peer in ("PyTorch, as usually written", "PyTorch, tuned"):
        if peer in result["missing"]:
            assert f"{peer} " in said and "cannot be had: ModuleNotFoundError" in said
            continue
        ratio = 1 / statistics.median(own / other for own, other in zip(ours, result["wall_s"][peer], strict=True))
        assert result["ratios"][peer]["wall"] == pytest.approx(ratio)
        assert result["apart"][peer] < 2e-5 and f"times the videos/s of {peer}" in said
    assert all(peak > 1e8 for peak in result["peak_bytes"].values())
