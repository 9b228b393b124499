"""bench=input: the peers read the very samples that ours reads, and the table says what was measured."""

import json
import statistics

import numpy as np
import pytest
from dct_sets import prepare_dct

from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax.bench import clips
from twostream_jax.bench import input as bench_input
from twostream_jax.bench import run as bench_run

WITH_TORCH = "the peers are PyTorch: pip install 'twostream-jax[bench]'"


@pytest.fixture
def files(config, tmp_path):
    return clips.jpeg_files(Records(config.data.records), tmp_path / "jpegs")


def test_the_files_hold_the_records_jpegs(config, files):
    records = Records(config.data.records)
    folder = clips.video_folder(records, 4, files)
    assert folder.parent.name == records.dataset.classes[records.videos[4].label]
    fields = records.field_jpegs(4, range(records.videos[4].pairs))
    assert len(list(folder.glob("flow_x_*.jpg"))) == len(list(folder.glob("flow_y_*.jpg"))) == len(fields) == 9
    for i, (x, y, _) in enumerate(fields, start=1):
        assert (folder / f"flow_x_{i:05d}.jpg").read_bytes() == x
        assert (folder / f"flow_y_{i:05d}.jpg").read_bytes() == y
    # What is complete is left alone, what is not is written again.
    (folder / "flow_x_00001.jpg").write_bytes(b"kept")
    clips.jpeg_files(records, files)
    assert (folder / "flow_x_00001.jpg").read_bytes() == b"kept"
    (folder / "complete").unlink()
    clips.jpeg_files(records, files)
    assert (folder / "flow_x_00001.jpg").read_bytes() == fields[0][0]


def test_crops_are_the_same(config, files, tmp_path):
    torch = pytest.importorskip("torch", reason=WITH_TORCH)
    from twostream_jax.bench.torch_loaders import DEVIATION, MEAN, TunedFlow, TunedFlowByItem, UsualFlow

    dct = prepare_dct(config, tmp_path, backward=False)
    taken = clips.transcoded_records(config, tmp_path, config.data.records)
    made = {bench_input.JPEG: config.data.records, bench_input.DCT: dct.data.records, bench_input.DCT_TAKEN_OVER: taken}
    words = bench_input.crops_compared(config, made, files, peers=True)
    assert list(words) == [
        bench_input.JPEG,
        bench_input.DCT,
        bench_input.DCT_TAKEN_OVER,
        bench_input.USUAL,
        bench_input.TUNED,
    ]

    # And by hand: a mirrored sample has d^x negated, and the whole batch has every item's bytes.
    samples = bench_input.peer_samples(config, config.data.records, files, 2)
    assert len(samples) == 2 * bench_input.BATCH_SIZE and {len(s.fields) for s in samples} == {3}
    flipped = next(i for i, s in enumerate(samples) if s.flip)
    planes, flip, label = TunedFlowByItem(samples, 41, 32)[flipped]
    batches, flips, labels = TunedFlow(samples, 41, 32)[flipped // 32]
    assert flip and flips[flipped % 32] and labels[flipped % 32] == label
    assert np.array_equal(batches[flipped % 32].numpy(), planes)
    tensor, _ = UsualFlow(samples, 41)[flipped]
    assert tensor.dtype == torch.float32 and tensor.shape == (6, 41, 41)
    x = (tensor[0].numpy() * DEVIATION + MEAN) * 255
    np.testing.assert_allclose(x, 255.0 - planes[0][:, ::-1], atol=1e-3)

    # A peer that read other crops would be found out.
    ours = next(iter(bench_input._our_batches(bench_input.all_videos_setup(config, made[bench_input.JPEG]), 1)))
    with pytest.raises(AssertionError):
        bench_input._peers_compared(ours, samples[1:33], 41)


def test_records_that_are_given_are_read_as_they_are(config, tmp_path):
    assert str(clips.bench_records(config, tmp_path)) == config.data.records
    with pytest.raises(UserError, match=r"data.records=.*: holds no flow of codec dct with 28 planes"):
        clips.bench_records(config, tmp_path, "dct", 28)
    assert not (tmp_path / "records").exists()


def test_without_clips_the_bench_says_what_to_name(config, tmp_path, monkeypatch):
    config.data.records, config.data.split_file = "", ""
    monkeypatch.setenv("TWOSTREAM_TEST_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"data.records is empty, and there is no .*BlowDryHair.*: name your records"):
        clips.bench_records(config, tmp_path)


def test_the_clips_are_real_ones(config, tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TWOSTREAM_TEST_DATA", str(data_dir))
    config.data.records, config.data.split_file = "", ""
    records = Records(clips.bench_records(config, tmp_path))
    assert [video.frames for video in records.videos] == [73, 60, 56]
    assert records.dataset.flow.method == "dis" and {v.height for v in records.videos} == {48}


@pytest.mark.slow
def test_the_whole_bench(config, tmp_path, monkeypatch, capsys):
    """From videos to the table: every contestant reads every sample, beside the sweep of the tuned peer."""
    pytest.importorskip("torch", reason=WITH_TORCH)
    monkeypatch.setattr(bench_run, "ROUNDS", 2)
    config.data.records = ""
    bench_run.bench(["input"], config, tmp_path)
    found = json.loads((tmp_path / "bench.json").read_text())["benches"]["input"]
    ours = [bench_input.JPEG, bench_input.DCT, bench_input.DCT_FEWER, bench_input.DCT_TAKEN_OVER]
    usual, tuned = [who for who in found["wall_s"] if who.startswith("PyTorch")]
    ours += [who for who in found["wall_s"] if who.endswith(" workers")]
    assert len(ours) == 6 and set(found["wall_s"]) == {*ours, usual, tuned} and found["missing"] == {}
    assert all(len(rounds) == 2 for rounds in found["cpu_s"].values())
    # Workers are processes of their own, whose time counts.
    assert statistics.median(found["cpu_s"][usual]) > 0.05
    seconds = statistics.median(found["wall_s"][usual])
    assert found["samples_per_second"][usual] == pytest.approx(32 * 16 / seconds)
    own, theirs = (found["wall_s"][who] for who in (bench_input.JPEG, usual))
    ratio = statistics.median(b / a for a, b in zip(own, theirs, strict=True))
    assert found["ratios"][bench_input.JPEG][usual]["wall"] == pytest.approx(ratio)
    assert len(found["sweep"]) >= 8 and all(len(times) == 3 for times in found["sweep"].values())
    fastest = min(found["sweep"], key=lambda name: statistics.median(found["sweep"][name]))
    assert tuned == f"{bench_input.TUNED}: {fastest}"
    said = capsys.readouterr().out
    assert "samples per CPU second" in said and "the same bytes" in said
    # A second time nothing is prepared anew.
    before = (tmp_path / "records" / "dataset.json").stat().st_mtime_ns
    clips.bench_records(config, tmp_path)
    assert (tmp_path / "records" / "dataset.json").stat().st_mtime_ns == before
