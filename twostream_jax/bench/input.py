"""bench=input: samples a second from files to uint8 training batches, beside PyTorch's loaders on the same crops."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from input_pipeline import pipeline, sampling
from input_pipeline.schema import UserError, dequantise_flow, first_line
from input_pipeline.store import Records
from input_pipeline.workers import usable_cores
from twostream_jax.bench import clips
from twostream_jax.bench.rounds import Builder, Rounds, interleave, time_lines
from twostream_jax.bench.samples import Sample
from twostream_jax.bench.training_setup import all_videos_setup, draw_of
from twostream_jax.drivers.setup import Setup
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.run_log import Progress

BATCH_SIZE = 32  # samples; the rates of larger batches are the same
BATCHES = 16  # of a round
FEWER_PLANES = 15
JPEG = "twostream-jax, JPEG records"
DCT = "twostream-jax, DCT records"
DCT_FEWER = f"twostream-jax, DCT records of {FEWER_PLANES} planes"
DCT_TAKEN_OVER = "twostream-jax, DCT records taken over from JPEG"
USUAL = "PyTorch, as usually written"
TUNED = "PyTorch, tuned"


def bench_input(config, rounds: int, workdir: Path) -> dict:
    """Return every round's seconds for the same samples, the sweep of the tuned peer's settings, and ratios to both peers.

    A round reads `BATCHES` batches of `BATCH_SIZE` from files that the system has in memory, from the middle of a run: no
    start is counted, and no batch that was read before. CPU seconds are those of all processes. `crops` says how the
    batches compare.
    """
    print("bench input: records and files of the same flow")
    made, missing = _records(config, workdir)
    stored = Records(made[JPEG])
    files = clips.jpeg_files(stored, workdir / "jpegs")
    try:
        made[DCT_TAKEN_OVER] = clips.transcoded_records(config, workdir, made[JPEG])
    except UserError as error:
        missing[DCT_TAKEN_OVER] = first_line(error)
    ours = _our_contestants(config, made)
    contestants: dict[str, tuple[Builder, tuple]] = dict(ours)
    peers, sweep = {}, {}
    try:
        peers, sweep = _peers(peer_samples(config, made[JPEG], files, BATCHES), config.input.crop)
    except ImportError as error:
        missing |= dict.fromkeys((USUAL, TUNED), f"ImportError: {first_line(error)}")
    contestants |= peers
    with Progress("bench input", "rounds") as progress:
        found = interleave(contestants, rounds, progress.update)
    samples = BATCH_SIZE * BATCHES
    return {
        "batch_size": BATCH_SIZE,
        "samples": samples,
        "stack": config.input.stack,
        "crop": config.input.crop,
        "records": {who: _facts(Records(path)) for who, path in made.items()},
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "missing": missing | found.missing,
        "samples_per_second": {who: samples / found.median(who) for who in found.wall_s},
        "sweep": sweep,
        "crops": crops_compared(config, made, files, bool(peers)),
        "ratios": _ratios(found, list(ours), list(peers)),
    }


def input_lines(found: dict) -> list[str]:
    """Return the lines that the terminal shows of `bench_input`."""
    lines = [f"input: {found['samples']} samples of {found['stack']} fields, crops of {found['crop']} px"]
    lines += time_lines(found, found["samples"])
    for who, ratios in found["ratios"].items():
        lines += [
            f"  {who}: {by['wall']:.1f} times as fast as {peer}, {by['cpu']:.1f} times the samples per CPU second"
            for peer, by in ratios.items()
        ]
    return lines + [f"  crops, {who}: {words}" for who, words in found["crops"].items()]


def _records(config, workdir: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the folders of records by contestant, and the reasons of those that cannot be had."""
    made, missing = {JPEG: clips.bench_records(config, workdir)}, {}
    for who, planes in ((DCT, 64), (DCT_FEWER, FEWER_PLANES)):
        try:
            made[who] = clips.bench_records(config, workdir, "dct", planes)
        except UserError as error:
            missing[who] = first_line(error)
    return made, missing


def _our_contestants(config, made: dict[str, Path]) -> dict[str, tuple[Builder, tuple]]:
    """Return our readers: each kind of records by threads, and the two that are most used by worker processes as well."""
    workers = config.data.num_workers or max(2, usable_cores())
    ours: dict[str, tuple[Builder, tuple]] = {}
    for who, path in made.items():
        ours[who] = (our_reader, (config, path, 0))
        if who in (JPEG, DCT):
            ours[f"{who}, {workers} workers"] = (our_reader, (config, path, workers))
    return ours


def _facts(records: Records) -> dict:
    """Return what of the records decides over a time."""
    sizes = sorted({f"{video.width}x{video.height}" for video in records.videos})
    flow_bytes = sum((records.path / "flow" / file.file).stat().st_size for file in records.dataset.files["flow"])
    pairs = records.dataset.counts["pairs"]
    return {"pairs": pairs, "sizes": sizes, "flow": records.dataset.flow.plain(), "bytes_a_pair": flow_bytes / pairs}


def our_reader(config, records: Path, workers: int) -> tuple[Callable[[], None], dict, Callable[[], None]]:
    """Return a function that reads the round's batches as training does, facts, and what drops those read ahead."""
    if computes_on_cpu():
        keep_freed_memory()  # as the command line does
    own = config.copy_and_resolve_references()
    own.data.num_workers = workers
    setup = all_videos_setup(own, records)
    reading, arriving = setup.reading(), _our_batches(setup, 2**31)
    facts = {"num_threads": reading.num_threads, "num_workers": workers, "planes": len(setup.planes)}
    return partial(_take, arriving, BATCHES), facts, partial(_take, arriving, pipeline.BATCHES_AHEAD + 2)


def _take(arriving: Iterator, count: int) -> None:
    for _ in range(count):
        next(arriving)


def _our_batches(setup: Setup, count: int) -> Iterator[dict[str, np.ndarray]]:
    window, reading = setup.window(setup.config.input.crop), setup.reading()
    records = [setup.only.records]
    return pipeline.train_batches(
        records, draw_of(setup, BATCH_SIZE), window, start_step=0, steps=count, reading=reading
    )


def peer_samples(config, records: Path, files: Path, count: int) -> list[Sample]:
    """Return the samples of the first `count` batches that ours draws."""
    setup = all_videos_setup(config, records)
    draw, stored, section, samples = draw_of(setup, BATCH_SIZE), setup.only.records, config.input, []
    for step in range(count):
        drawn = draw(step)
        for b in range(BATCH_SIZE):
            video = int(drawn["video"][b])
            frames = stored.videos[video].frames
            fields = sampling.field_indices(int(drawn["anchor"][b]), frames, section.stack, section.flow_offset)
            folder, corner = clips.video_folder(stored, video, files), (int(drawn["y"][b]), int(drawn["x"][b]))
            flip, label = bool(drawn["flip"][b]), int(drawn["label"][b])
            samples.append(Sample(folder, tuple(int(i) + 1 for i in fields), *corner, flip, label))
    return samples


def _peers(samples: list[Sample], crop: int) -> tuple[dict[str, tuple[Builder, tuple]], dict[str, list[float]]]:
    """Return the usual loader and the tuned one in its best setting, and the sweep: every setting's seconds.

    ImportError without PyTorch.
    """
    from twostream_jax.bench import torch_loaders

    print("bench input: sweep of the tuned loader's settings")
    # In a process of its own, in which jax runs no threads when the workers are forked.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        tried = pool.submit(torch_loaders.sweep, samples, crop, BATCH_SIZE, BATCHES).result()
    best = min(tried, key=lambda tuning: statistics.median(tried[tuning]))
    how = (samples, crop, BATCH_SIZE, BATCHES)
    peers: dict[str, tuple[Builder, tuple]] = {
        USUAL: (torch_loaders.usual_reader, how),
        f"{TUNED}: {best}": (torch_loaders.tuned_reader, (*how, best)),
    }
    return peers, {str(tuning): seconds for tuning, seconds in tried.items()}


def _ratios(found: Rounds, ours: list[str], peers: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return {ours: {peer: {"wall", "cpu"}}}: how many times a peer's samples a second, and per CPU second."""
    return {
        who: {
            peer: {"wall": found.ratio(peer, who), "cpu": found.cpu_ratio(peer, who)}
            for peer in peers
            if peer in found.wall_s
        }
        for who in ours
    }


def crops_compared(config, made: dict[str, Path], files: Path, peers: bool) -> dict[str, str]:
    """Return by contestant how its first batch compares with that of our JPEG records; AssertionError where it must not.

    JPEGs read by the peers give the same bytes, DCT records taken over pixels within one grey level; those coded from float
    flow are another approximation of the same flow, and so is JPEG.
    """
    from twostream_jax.preprocess import crop_windows
    from twostream_jax.preprocess.dequantise import dequantise_dct

    ours = next(iter(_our_batches(all_videos_setup(config, made[JPEG]), 1)))
    words = {JPEG: "the reference"}
    for who, path in made.items():
        if who == JPEG:
            continue
        setup = all_videos_setup(config, path)
        batch = next(iter(_our_batches(setup, 1)))
        px = dequantise_dct(*(batch[key] for key in ("flow", "steps", "zero", "bound")), setup.planes)
        px = np.asarray(crop_windows(px, batch["crop"], config.input.crop))
        theirs = dequantise_flow(ours["flow"], float(ours["bound"][0]))
        levels = np.abs(px - theirs) * 255 / (2 * float(ours["bound"][0]))
        words[who] = f"mean {levels.mean():.2f}, at most {levels.max():.1f} grey levels from it"
        assert who != DCT_TAKEN_OVER or levels.max() <= 1.0, words[who]
    if peers:
        words |= _peers_compared(ours, peer_samples(config, made[JPEG], files, 1), config.input.crop)
    return words


def _peers_compared(ours: dict[str, np.ndarray], samples: list, crop: int) -> dict[str, str]:
    from twostream_jax.bench.torch_loaders import DEVIATION, MEAN, TunedFlow, UsualFlow

    levels = ours["flow"].reshape(BATCH_SIZE, -1, crop, crop)
    tuned, flip, _ = TunedFlow(samples, crop, BATCH_SIZE)[0]
    assert np.array_equal(tuned.numpy(), levels) and np.array_equal(flip.numpy(), ours["flip"])
    usual = UsualFlow(samples, crop)
    for b in range(BATCH_SIZE):
        read = np.rint((usual[b][0].numpy() * DEVIATION + MEAN) * 255).astype(np.uint8)
        if ours["flip"][b]:
            read = read[..., ::-1].copy()
            read[::2] = 255 - read[::2]
        assert np.array_equal(read, levels[b]), b
    return {USUAL: "the same bytes, once mirrored and scaled back", TUNED: "the same bytes"}
