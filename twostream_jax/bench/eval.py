"""bench=eval: whole videos scored from files to probabilities by ten crops of each stack, beside PyTorch's ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from input_pipeline import sampling
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax import mesh as meshes
from twostream_jax.bench import clips
from twostream_jax.bench.rounds import Builder, interleave, time_lines
from twostream_jax.bench.scored_videos import Job, VideoStacks, leave_scores, left_scores
from twostream_jax.bench.training_setup import all_videos_setup
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.run_log import Progress
from twostream_jax.steps import abstract_params

OURS = "twostream-jax"
USUAL = "PyTorch, as usually written"
TUNED = {"PyTorch, tuned": False, "PyTorch, tuned and compiled": True}  # whether compiled
VIDEOS = 2  # scored a round, the shortest
CLASSES = 101  # of UCF-101
# Of probabilities of eight layers whose sums are made in other orders: 6e-7 was measured in float32, whose numbers have
# 24 bits. In bfloat16 they have 8: 2^-8 of each layer's results, and so some hundredths of a probability.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}


def bench_eval(config, rounds: int, workdir: Path) -> dict:
    """Return every round's seconds for the same videos, how far the scores are apart, peak memory, and ratios to both peers.

    A round reads `VIDEOS` videos from files that the system has in memory and scores them at `eval.frames` positions and ten
    crops by the net at full size, with drawn weights. AssertionError where the contestants' scores differ.
    """
    records = clips.bench_records(config, workdir)
    job = peer_job(config, records, clips.jpeg_files(Records(records), workdir / "jpegs"))
    contestants = _contestants(config, records, job, workdir)
    with Progress("bench eval", "rounds") as progress:
        found = interleave({who: how for who, (how, _) in contestants.items()}, rounds, progress.update)
    if OURS in found.missing:
        raise UserError(f"bench eval: {found.missing[OURS]}")
    left = {who: left_scores(path) for who, (_, path) in contestants.items() if who in found.wall_s}
    tuned = found.fastest(list(TUNED))
    return {
        "net": config.model.name,
        "dtype": config.train.dtype,
        "videos": len(job.videos),
        "frames": config.eval.frames,
        "stacks": sum(len(video.stacks) for video in job.videos),
        "sizes": sorted({f"{video.width}x{video.height}" for video in job.videos}),
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "missing": found.missing,
        "facts": found.facts,
        "videos_per_second": {who: len(job.videos) / found.median(who) for who in found.wall_s},
        "peak_bytes": {who: peak for who, (_, peak) in left.items()},
        "apart": scores_compared({who: probs for who, (probs, _) in left.items()}, TOLERANCE[config.train.dtype]),
        "ratios": {
            peer: {"wall": 1 / found.ratio(OURS, peer), "cpu": 1 / found.cpu_ratio(OURS, peer)}
            for peer in (USUAL, tuned)
            if peer in found.wall_s
        },
    }


def eval_lines(found: dict) -> list[str]:
    """Return the lines that the terminal shows of `bench_eval`."""
    what = f"{found['videos']} videos of {', '.join(found['sizes'])} px, {found['stacks']} stacks x 10 crops a round"
    lines = [
        f"eval: {found['net']}, {found['dtype']}, {what}; a sample is a stack",
        *time_lines(found, found["stacks"]),
    ]
    for who, rate in found["videos_per_second"].items():
        apart = f", scores at most {found['apart'][who]:.1e} from ours" if who != OURS else ""
        lines.append(f"  {who}: {rate:.3g} videos/s, {found['peak_bytes'][who] / 1e9:.2f} GB at most{apart}")
    for peer, by in found["ratios"].items():
        lines.append(f"  {by['wall']:.2f} times the videos/s of {peer}, {by['cpu']:.2f} times those of a CPU second")
    return lines


def _contestants(config, records: Path, job: Job, workdir: Path) -> dict[str, tuple[tuple[Builder, tuple], Path]]:
    """Return each contestant's builder with its arguments, and the file that it leaves its scores in."""
    paths = {who: workdir / f"eval_{number}.npz" for number, who in enumerate((OURS, USUAL, *TUNED))}
    made = {OURS: ((our_scorer, (config, records, job, paths[OURS])), paths[OURS])}
    return made | {who: ((torch_scorer, (job, paths[who], who)), paths[who]) for who in (USUAL, *TUNED)}


def _table(config, records: Path) -> tuple:
    """Return the setup of the records and the table of the videos that are scored."""
    setup = all_videos_setup(config, records)
    stored, positions = setup.only.records.videos, setup.only.positions["train"]
    shortest = sorted(positions, key=lambda i: stored[i].frames)[:VIDEOS]
    return setup, sampling.VideoTable.of(stored, shortest)


def peer_job(config, records: Path, files: Path) -> Job:
    """Return the stacks that ours scores, as files that the peers read, and the net."""
    setup, table = _table(config, records)
    stored, section, (before, after), videos = setup.only.records, config.input, setup.span, []
    for position in table.position:
        video = stored.videos[int(position)]
        anchors = sampling.eval_positions(video.frames, before, after, config.eval.frames)
        fields = [sampling.field_indices(int(a), video.frames, section.stack, section.flow_offset) + 1 for a in anchors]
        stacks = tuple(tuple(map(int, own)) for own in fields)
        folder = clips.video_folder(stored, int(position), files)
        videos.append(VideoStacks(folder, stacks, video.height, video.width))
    bounds = {stored.videos[int(position)].bound_px for position in table.position}
    assert len(bounds) == 1, bounds
    model = setup.model({"bench": CLASSES})
    shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), abstract_params(model, setup.inputs))
    return Job(
        tuple(videos),
        shapes,
        model.normalised,
        crop=section.crop,
        width=config.model.width,
        bound_px=bounds.pop(),
        means=section.mean_subtraction,
        half=config.train.dtype == "bfloat16",
    )


def our_scorer(config, records: Path, job: Job, left: Path) -> tuple[Callable[[], None], dict]:
    """Return a function that scores the videos as mode=eval does and leaves the scores, and {"batch": stacks}."""
    if computes_on_cpu():
        keep_freed_memory()  # as the command line does
    setup, table = _table(config, records)
    mesh = meshes.make_mesh()
    scorer = Scorer(setup, setup.model({"bench": CLASSES}), mesh, crops=10)
    params = jax.device_put(job.weights(), meshes.replicated(mesh))

    def run() -> None:
        labels = np.zeros(len(table.position), np.int64)  # of no account
        scores = scorer(params, setup.only, table, labels, "bench", config.eval.frames, lambda *_: None)
        leave_scores(left, scores.probs)

    return run, {"batch": config.eval.batch_size}


def torch_scorer(job: Job, left: Path, who: str) -> tuple[Callable[[], None], dict]:
    """Return a peer's function and facts; ImportError where PyTorch is not installed."""
    from twostream_jax.bench.torch_eval import tuned_scorer, usual_scorer

    return usual_scorer(job, left) if who == USUAL else tuned_scorer(job, left, TUNED[who])


def scores_compared(probs: dict[str, np.ndarray], tolerance: float) -> dict[str, float]:
    """Return how far each contestant's probabilities are from ours at most; AssertionError beyond `tolerance`.

    Or where two videos are no further apart than that, so that the comparison would say little.
    """
    ours = probs[OURS]
    apart = {who: float(np.abs(own - ours).max()) for who, own in probs.items()}
    spread = float(np.ptp(ours, axis=0).max())
    assert max(apart.values()) <= tolerance, apart
    assert len(ours) == 1 or spread > 2 * max(apart.values()), (spread, apart)
    return apart
