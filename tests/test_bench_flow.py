"""bench=flow: errors by hand, the work that is counted, and the table of toy pairs."""

import dataclasses
import json
import multiprocessing
import os
import time

import cv2
import numpy as np
import pytest
from command_line import refused
from tiny_clips import write_clip

from input_pipeline.schema import UserError
from twostream_jax import cli_config, flow
from twostream_jax.bench import flow as bench_flow
from twostream_jax.bench import flow_work, ground_truth, machine
from twostream_jax.bench import run as bench_run
from twostream_jax.bench.ground_truth import angular_error, end_point_error, residual

NAN = float("nan")


def field(*vectors):
    return np.float32([vectors])


def write_flo(path, flow):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = flow.shape[:2]
    path.write_bytes(np.float32(202021.25).tobytes() + np.int32([width, height]).tobytes() + flow.tobytes())


def texture(height, width, seed=0):
    """Return a smooth random picture, uint8."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_errors_by_hand():
    truth = field((3, 4), (0, 0), (NAN, NAN))
    # 5 px and 0 px away; of what is unknown nothing is asked.
    assert end_point_error(field((0, 0), (0, 0), (9, 9)), truth) == 2.5
    # (1, 0, 1) and (0, 0, 1) enclose 45 degrees, (1, 0, 1) and (-1, 0, 1) 90.
    assert angular_error(field((1, 0), (1, 0), (7, 7)), field((0, 0), (-1, 0), (NAN, NAN))) == pytest.approx(67.5)
    assert angular_error(field((1, 2)), field((1, 2))) == pytest.approx(0, abs=1e-5)
    # A step to the right of 1 px: what first shows at x, second shows at x + 1.
    first = np.uint8([[10, 50, 20, 90]] * 4)
    second = np.uint8([[0, 10, 50, 20]] * 4)
    # The last column would be read beyond the border, whose value 20 is continued.
    assert residual(first, second, np.full((4, 4, 2), (1, 0))) == pytest.approx(70 / 4)
    assert residual(first, second, np.zeros((4, 4, 2))) == pytest.approx((10 + 40 + 30 + 70) / 4)


def test_flo_files(tmp_path):
    path = tmp_path / "a.flo"
    flow = np.float32([[[1, 2], [3, -4]], [[1e10, 1], [5, 6]], [[0, 0], [7, 8]]])
    write_flo(path, flow)
    read = ground_truth.read_flo(path)
    assert read.shape == (3, 2, 2) and np.isnan(read[1, 0]).all()
    known = np.ones((3, 2), bool)
    known[1, 0] = False
    np.testing.assert_array_equal(read[known], flow[known])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"a\.flo: has 11 numbers where 2x3 px need 12"):
        ground_truth.read_flo(path)
    for content in (b"", b"P5 2 2 255 abcdefgh"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.flo: is no \.flo file"):
            ground_truth.read_flo(path)


def test_the_errors_are_those_measured_before(data_dir):
    """Of ../shared/data's pairs, end-point and angular error; of no flow and of OpenCV's methods by another script."""
    truths = {truth.name: truth for truth in ground_truth.read_truths(data_dir)}
    assert list(truths) == ["rubberwhale", *(f"flyingchairs {i}" for i in range(4))]
    whale = truths["rubberwhale"]
    assert end_point_error(np.zeros_like(whale.flow), whale.flow) == pytest.approx(1.256, abs=0.001)
    for who, error_px, degrees in (("OpenCV Farneback", 0.361, 12.3), ("OpenCV DIS", 0.225, 7.4)):
        _, facts = bench_flow._measured(
            method_of(bench_flow.OPENCV[who]), np.zeros((1, 2, 32, 32), np.uint8), [whale], time.perf_counter
        )
        found = facts["truths"]["rubberwhale"]
        # Values differ a little between OpenCV's versions.
        assert found["end_point_px"] == pytest.approx(error_px, abs=0.01)
        assert found["angular_degrees"] == pytest.approx(degrees, abs=0.3)


def method_of(name):
    from input_pipeline.opencv_flow import compute_flow

    return lambda first, second: np.stack([compute_flow(np.stack(p), name)[0] for p in zip(first, second, strict=True)])


def test_pairs_are_neighbours_in_the_middle_of_each_clip(data_dir):
    frames = ground_truth.read_clips(data_dir, 64, 3)
    assert frames.shape == (8, 4, 64, 86) and frames.dtype == np.uint8
    first, second = bench_flow._pairs(frames)
    assert len(first) == 24
    np.testing.assert_array_equal(first[3 + 1], frames[1, 1])
    np.testing.assert_array_equal(second[3 + 1], frames[1, 2])


TINY = dataclasses.replace(flow.DEFAULT, nscales=2, warps=2, inner_iterations=4, outer_iterations=3)


@pytest.mark.slow
def test_iterations_are_counted_as_they_are_made():
    picture = texture(40, 60)
    still, moved = picture[:, :48], picture[:, 3:51]
    first, second = np.stack([still, still]), np.stack([still, moved])
    rounds, fields = flow_work.counted(first, second, TINY)
    rounds = np.asarray(rounds)
    assert rounds.shape == (2, 2, 2)
    # A still picture has settled after one round of each warp, a moved one has not.
    assert (rounds[0] == 1).all() and rounds[1].max() > 1 and rounds.max() <= 3
    np.testing.assert_allclose(fields, flow.tvl1(first, second, settings=TINY), atol=1e-3)
    # An epsilon of 0 never ends a warp where anything moves.
    endless = dataclasses.replace(TINY, epsilon=0.0)
    assert (np.asarray(flow_work.counted(first, second, endless)[0])[1] == 3).all()

    pixels = flow_work.level_pixels((40, 48), TINY)
    assert pixels == [32 * 38, 40 * 48]
    found = flow_work.work(first, second, TINY, together=False)
    by_level = 4 * rounds.sum(axis=2)
    assert found["iterations"] == by_level.sum(axis=1).mean() and found["most_iterations"] == 2 * 2 * 3 * 4
    assert found["bytes"] == 64 * (by_level * pixels).sum(axis=1).mean()
    # Together, the still pair waits for the other, warp by warp.
    both = flow_work.work(first, second, TINY, together=True)
    assert both["iterations"] == 4 * rounds.max(axis=0).sum() > found["iterations"]
    # Of one iteration: less than 64 would be arrays left out; its lines have some 50 operations.
    of_pixels = found["bytes"] / 64
    assert found["bytes_a_pixel"] == 64 <= found["bytes_by_xla_a_pixel"] < 400
    assert 30 < found["flops"] / of_pixels < 100 and 1e-12 < found["iterations_s"] / of_pixels < 1e-6


def test_the_bandwidth_is_that_of_the_memory():
    # A core reads its cache at most at some hundreds of GB/s, and memory at some GB/s at least.
    for size in (2**18, 2**24):
        assert 5e8 < machine.measured_bandwidth(size) < 1e13


def one_core(connection):
    import jax.numpy as jnp

    bench_flow.use_one_core()
    wall, cpu = time.perf_counter(), time.process_time()
    product = jnp.ones((1024, 1024))
    for _ in range(10):
        product = (product @ product).block_until_ready()
    shares = (time.process_time() - cpu) / (time.perf_counter() - wall)
    connection.send((sorted(os.sched_getaffinity(0)), cv2.getNumThreads(), os.environ["XLA_FLAGS"].split()[-1], shares))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its cores")
def test_a_contestant_keeps_to_one_core():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=one_core, args=(theirs,))
    child.start()
    cores, threads, flag, shares = ours.recv()
    child.join()
    assert shares < 1.1
    assert cores == [min(os.sched_getaffinity(0))] and threads == 1 and flag == "--xla_cpu_multi_thread_eigen=false"


@pytest.fixture
def toy_data(tmp_path, monkeypatch):
    """A folder with all files that the bench reads: 32x24 px, textures that move two px right a frame."""
    root = tmp_path / "data"
    for seed, name in enumerate(ground_truth.CLIPS):
        clip = root / name
        write_clip(clip.with_suffix(".avi"), frames=4, seed=seed, size=(24, 32))
        clip.with_suffix(".avi").rename(clip)
    for first, second, truth in ground_truth.TRUTHS.values():
        picture = cv2.cvtColor(texture(24, 34), cv2.COLOR_GRAY2BGR)
        write_flo(root / truth, np.full((24, 32, 2), (2, 0), np.float32))
        # At 2 px to the left of a place the picture moves right: first(x) = second(x + 2).
        cv2.imwrite(str(root / first), picture[:, 2:])
        cv2.imwrite(str(root / second), picture[:, :32])
    monkeypatch.setenv("TWOSTREAM_TEST_DATA", str(root))
    return root


@pytest.mark.slow
def test_a_bench_prints_times_with_errors_beside_them(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_run, "ROUNDS", 2)
    monkeypatch.setattr(
        bench_flow, "OPENCV", {name: bench_flow.OPENCV[name] for name in ("OpenCV TV-L1", "OpenCV DIS")}
    )
    config, _ = cli_config.load(
        "configs/bench.py", ["--config.data.short_side=24", "--config.model.name=cnn_m_spatial"]
    )
    # Of no account.
    config.input.streams, config.input.crop, config.train.batch_size = ("rgb",), 24, 3
    found = bench_run.bench(["flow"], config, tmp_path)["benches"]["flow"]
    assert json.loads((tmp_path / "bench.json").read_text())["benches"]["flow"]["wall_s"] == found["wall_s"]
    methods = ["twostream-jax TV-L1", "twostream-jax Brox", "OpenCV TV-L1", "OpenCV DIS"]
    assert list(found["wall_s"]) == methods and not found["missing"] and found["size"] == "32x24"
    for who in methods:
        facts = found["facts"][who]
        assert facts["pairs"] == 8 and list(facts["truths"]) == list(ground_truth.TRUTHS)
        # The known flow is 2 px; each comes near it, and nothing else would.
        assert (
            facts["truths"]["rubberwhale"]["end_point_px"]
            < 0.3
            < found["still"]["truths"]["rubberwhale"]["end_point_px"]
        )
        assert facts["residual"] < found["still"]["residual"]
        assert found["pairs_per_second"][who] == pytest.approx(1e3 / found["ms_a_pair"][who])
    assert found["still"]["truths"]["rubberwhale"]["end_point_px"] == 2
    ours, reference = found["wall_s"]["twostream-jax TV-L1"], found["wall_s"]["OpenCV TV-L1"]
    faster = found["times_as_fast_as_reference"]
    assert faster["OpenCV TV-L1"] == {"wall": 1, "cpu": 1}
    assert faster["twostream-jax TV-L1"]["wall"] == pytest.approx(1 / np.median(np.divide(ours, reference)))
    of = found["work"]["twostream-jax TV-L1"]
    assert of["seconds"] == np.median(found["cpu_s"]["twostream-jax TV-L1"]) / 8
    rate = of["bytes"] / of["seconds"]
    assert of["bytes_per_second"] == pytest.approx(rate) and of["share_of_bandwidth"] == rate / of["bandwidth"]
    assert of["share_of_bandwidth_within"] == pytest.approx(of["share_of_bandwidth"] / of["share_of_time"])
    assert 0 < of["iterations"] <= of["most_iterations"]
    said = capsys.readouterr().out
    assert "per CPU second); residual" in said and "measured on as many bytes as an iteration holds" in said
    assert f"| end-point error px / angular error ° / s | no flow | {' | '.join(methods)} |" in said
    assert "| rubberwhale | 2.000 / 63.4 |" in said


def test_mistakes_are_one_line(toy_data, tmp_path, capsys, monkeypatch):
    run = ["--mode=bench", "--bench=flow", f"--workdir={tmp_path / 'run'}"]
    (toy_data / "flow/rubberwhale/frame10.png").write_bytes(b"no picture")
    refused(capsys, run, "flow/rubberwhale/frame10.png: cannot be read as a picture")
    monkeypatch.setenv("TWOSTREAM_TEST_DATA", str(tmp_path / "nowhere"))
    refused(capsys, run, f"TWOSTREAM_TEST_DATA: there is no {tmp_path / 'nowhere' / ground_truth.CLIPS[0]}; set it to")
    assert not (tmp_path / "run").exists()
