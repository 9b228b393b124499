"""Batches of pairs of many callers on devices, and records made by a method that jax computes."""

import dataclasses
import hashlib
import importlib
import itertools
import threading
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import forbid_devices, refused
from tiny_clips import SETTINGS, hashes, run, tiny_list

from input_pipeline.estimate import estimate
from input_pipeline.fields import FlowFailed
from input_pipeline.schema import UserError
from twostream_jax import flow
from twostream_jax.drivers import device_flow
from twostream_jax.drivers.device_flow import DeviceFlow, resolve

# What a version stands for; whoever changes the defaults raises the version in device_flow.py, then this.
VERSIONS = {"jax_tvl1": ("1", flow.DEFAULT, "0655c08e"), "jax_brox": ("1", flow.BROX, "53494412")}
JAX = dataclasses.replace(SETTINGS, method="jax_tvl1", flow_version="1")


def moved(frame0, frame1, size):
    """A method that takes no time: d^x is the first frame's level, d^y the second's plus the valid height and width."""
    assert frame0.dtype == jnp.uint8
    levels0, levels1, (height, width) = *(f.astype(jnp.float32) for f in (frame0, frame1)), size.astype(jnp.float32).T
    return jnp.stack([levels0, levels1 + (1000 * height + 100000 * width)[:, None, None]], axis=-1)


def both(frame0, frame1, size):
    return moved(frame0, frame1, size), moved(frame1, frame0, size)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(device_flow._METHODS, "jax_tvl1", device_flow._Method(moved, both, "1"))


def pairs(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, count, height, width)).astype(np.uint8)


def expected(sources, targets):
    height, width = sources.shape[1:]
    second = targets.astype(np.float32) + np.float32(1000.0 * height) + np.float32(100000.0 * width)
    return np.stack([sources.astype(np.float32), second], axis=-1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("at_once", [None, 4])
def test_callers_of_many_sizes_get_their_own_fields(monkeypatch, at_once):
    if at_once:  # as on an accelerator: several pairs a device, those of several callers together
        monkeypatch.setattr(device_flow, "_on_cpu", lambda mesh: False)
        monkeypatch.setattr(device_flow, "MOST_AT_ONCE", at_once)
    engine, found = DeviceFlow("jax_tvl1"), {}
    sizes = [(5, 31, 33), (70, 32, 40), (3, 20, 60), (1, 33, 33), (9, 31, 33), (0, 8, 8)]

    def caller(seed, size):
        frames = pairs(*size, seed)
        found[seed] = frames, engine(*frames, seed % 2 == 1)()

    callers = [threading.Thread(target=caller, args=(seed, size)) for seed, size in enumerate(sizes)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(60)
    for seed in range(len(sizes)):
        frames, fields = found[seed]
        np.testing.assert_array_equal(fields[0], expected(*frames))
        assert len(fields) == 1 + seed % 2
        if seed % 2:
            np.testing.assert_array_equal(fields[1], expected(*frames[::-1]))
    # 31x33 and 32x40 share a program, 20x60 has its width.
    assert {shape[:2] for shape in engine._programs} == {(32, 64), (64, 64)}


@pytest.mark.usefixtures("quick")
def test_batches_hold_what_a_device_takes(monkeypatch):
    devices = len(jax.devices())
    assert DeviceFlow("jax_tvl1").pairs_at_once(256, 342) == device_flow.usable_cores() * devices
    monkeypatch.setattr(device_flow, "_on_cpu", lambda mesh: False)
    engine = DeviceFlow("jax_tvl1")
    assert engine.pairs_at_once(256, 342) == 64 * devices
    assert engine.pairs_at_once(257, 342) == 32 * devices  # a power of two
    assert engine.pairs_at_once(1080, 1920) == 2 * devices
    assert engine.pairs_at_once(8000, 8000) == devices
    assert engine.pairs_at_once(64, 64) == 64 * devices


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_device_raises_reaches_its_callers_and_the_next_call_works(monkeypatch):
    def fails(frame0, frame1, size):
        raise RuntimeError("no memory")

    monkeypatch.setitem(device_flow._METHODS, "jax_tvl1", device_flow._Method(fails, both, "1"))
    engine = DeviceFlow("jax_tvl1")
    with pytest.raises(FlowFailed, match="no memory"):
        engine(*pairs(3, 8, 8), False)()
    assert len(engine(*pairs(3, 8, 8), True)()) == 2


@pytest.mark.parametrize("method", VERSIONS)
def test_the_version_says_what_made_records(method):
    version, settings, digest = VERSIONS[method]
    assert device_flow.flow_version(method) == version
    assert hashlib.sha256(repr(settings).encode()).hexdigest()[:8] == digest
    assert device_flow.flow_version("dis") == ""


@pytest.mark.slow
def test_eight_devices_find_what_one_finds():
    """Each pair is computed by itself, so to the last bit. Another program rounds otherwise: as far as padding's does."""
    texture = cv2.GaussianBlur(pairs(1, 60, 90)[0, 0], (0, 0), 2).astype(np.float32)
    texture = np.uint8(255 * (texture - texture.min()) / np.ptp(texture))
    frames = np.stack([[texture[i + t : i + t + 24, i : i + 40] for i in range(11)] for t in (0, 1)])
    assert len(jax.devices()) == 8
    one, eight = (DeviceFlow("jax_tvl1", jax.devices()[:n])(*frames, False)()[0] for n in (1, 8))
    np.testing.assert_array_equal(one, eight)
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 8), (0, 24)))
    want = flow.tvl1(*padded, jnp.array([24, 40]))[:, :24, :40]
    away = np.abs(one - want)
    assert away.max() < 1e-2 and away.mean() < 1e-4


def test_auto_is_told_and_keeps_to_records(tmp_path, capsys):
    assert resolve("dis") == "dis" and not capsys.readouterr().out
    assert resolve("auto", tmp_path) == "jax_tvl1" and capsys.readouterr().out == "flow.method=auto: jax_tvl1\n"
    begun = tmp_path / "begun" / ".partial"
    begun.mkdir(parents=True)
    (begun / "settings").write_text('{"flow.method": "tvl1"}')
    assert resolve("auto", tmp_path / "begun") == "jax_tvl1"  # nothing is finished there
    (begun / "a.json").write_text("{}")
    capsys.readouterr()
    assert resolve("auto", tmp_path / "begun") == "tvl1"
    # Frames alone were begun: that is refused later, not gone on with unasked.
    (begun / "settings").write_text('{"flow.method": "none"}')
    assert resolve("auto", tmp_path / "begun") == "jax_tvl1"
    (begun / "settings").write_text('{"flow.method": "tvl1"}')
    capsys.readouterr()
    assert resolve("auto", tmp_path / "begun") == "tvl1"
    assert capsys.readouterr().out == f"flow.method=auto: tvl1, as in the interrupted run in {tmp_path / 'begun'}\n"
    run(tiny_list(tmp_path / "v", count=2), tmp_path / "r", SETTINGS)
    assert resolve("auto", tmp_path / "r") == "dis"
    assert capsys.readouterr().out == f"flow.method=auto: dis, as in {tmp_path / 'r'}\n"
    assert resolve("tvl1", tmp_path / "r") == "tvl1"


def test_a_folder_that_is_refused_is_refused_before_any_device_works(tmp_path, capsys, monkeypatch):
    tiny_list(tmp_path / "v", count=2)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "letter.txt").write_text("mine")
    importlib.import_module("twostream_jax.drivers.prepare")  # which decorates with jax.jit
    forbid_devices(monkeypatch)
    arguments = ["--mode=prepare", "--config=configs/temporal.py", "--config.data.kind=folder", "--config.data.splits="]
    arguments += [f"--config.data.videos={tmp_path / 'v'}", f"--config.data.records={tmp_path / 'r'}"]
    refused(capsys, arguments, "holds other files and no records; name a folder that is empty")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("bound", [8.0, "video"])
def test_records_are_the_same_for_any_number_of_processes(tmp_path, bound):
    videos = tiny_list(tmp_path / "v", count=4)
    settings = dataclasses.replace(JAX, backward=True, bound_px=bound)
    made = [run(videos, tmp_path / str(n), settings, processes=n, device_flow=DeviceFlow) for n in (1, 3)]
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")
    assert made[0].flow.plain() == {
        "method": "jax_tvl1", "bound_px": bound, "backward": True, "opencv_version": "", "version": "1"
    }  # fmt: skip


@pytest.mark.usefixtures("quick")
def test_bad_videos_are_set_aside_and_the_rest_resumed(tmp_path):
    videos = tiny_list(tmp_path / "v", count=4)
    (tmp_path / "v" / "b" / "clip1.avi").write_bytes(b"no video")
    run(videos, tmp_path / "calm", JAX, device_flow=DeviceFlow)
    partial, calls = tmp_path / "r" / ".partial", itertools.count()

    def breaks_off(method):
        engine = DeviceFlow(method)

        def start(*request):
            if next(calls):
                wait_for(lambda: any(partial.glob("*.json")))
                raise MemoryError
            return engine(*request)

        return start

    with pytest.raises(UserError, match="the device fails"):
        run(videos, tmp_path / "r", JAX, processes=2, device_flow=breaks_off)
    assert any(partial.glob("*.json"))
    made = run(videos, tmp_path / "r", JAX, processes=2, device_flow=DeviceFlow)
    assert len(made.videos) == 3 and made.counts["quarantined"] == 1
    assert hashes(tmp_path / "r") == hashes(tmp_path / "calm")


def test_a_device_that_fails_ends_the_run_and_keeps_what_is_done(tmp_path, monkeypatch):
    def failing(method):
        def start(sources, targets, both):
            raise MemoryError("RESOURCE_EXHAUSTED: 9 GB wanted")

        return start

    videos = tiny_list(tmp_path / "v", count=3)
    words = r"^flow\.method=jax_tvl1: the device fails \(RESOURCE_EXHAUSTED: 9 GB wanted\); the same command"
    with pytest.raises(UserError, match=words):
        run(videos, tmp_path / "r", JAX, processes=2, device_flow=failing)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_program_that_fails_is_told_in_one_line(tmp_path, monkeypatch, processes):
    def fails(frame0, frame1, size):
        raise RuntimeError("no memory")

    monkeypatch.setitem(device_flow._METHODS, "jax_tvl1", device_flow._Method(fails, fails, "1"))
    videos = tiny_list(tmp_path / "v", count=2)
    for call in (
        lambda: run(videos, tmp_path / "r", JAX, processes=processes, device_flow=DeviceFlow),
        lambda: estimate(videos, JAX, DeviceFlow),
    ):
        with pytest.raises(UserError, match=r"^flow\.method=jax_tvl1: the device fails \(no memory\)"):
            call()


@pytest.mark.parametrize("change", [{"flow_version": "2"}, {"camera_compensation": True}])
@pytest.mark.usefixtures("quick")
def test_flow_made_otherwise_is_not_mixed(tmp_path, change):
    videos = tiny_list(tmp_path / "v", count=3)
    few = dataclasses.replace(videos, videos=videos.videos[:2])
    run(few, tmp_path / "r", JAX, device_flow=DeviceFlow)
    words = {
        "flow_version": r"the flow in .* is by jax_tvl1 1, new videos would get that of jax_tvl1 2; choose another",
        "camera_compensation": "prepared otherwise: flow.camera_compensation is False there and True now",
    }
    with pytest.raises(UserError, match=words[next(iter(change))]):
        run(videos, tmp_path / "r", dataclasses.replace(JAX, **change), device_flow=DeviceFlow)
