"""mode=predict over a long video or a camera: a window slides over it, and each hop gives an answer."""

from __future__ import annotations

import json
import math
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.camera import Camera
from input_pipeline.moments import Hop, Moment, VideoFile, cut_hops
from input_pipeline.schema import UserError
from input_pipeline.video_list import Video
from twostream_jax.drivers.annotate import Annotation
from twostream_jax.drivers.loaded_run import Heads, LoadedRun, load_runs, one_video
from twostream_jax.drivers.predict import check_video, describe, shown_records
from twostream_jax.drivers.stop_signals import StopSignals
from twostream_jax.run_log import Progress

HOPS = 4  # a window
CAMERA_WINDOW_S = 2.0


def predict_video(runs: list[tuple[object, Path]], video: Path, window_s: float, annotate: Path | None = None) -> None:
    """Print the answers over a video file; see `_Watch`.

    Ctrl-C and SIGTERM end it as the end of the video would, but with status 130 or 143.
    """
    check_video(video)
    loaded = load_runs(runs, hops=True)
    annotation = annotate and Annotation(annotate)
    asked = f"--video={video}"
    try:
        source = VideoFile(video, _short_sides(loaded))
    except UserError as error:
        raise UserError(f"--video={error}") from error
    stop = StopSignals()
    try:
        _Watch(loaded, source, window_s, annotation, asked).run(_naming_file(source.moments()), stop)
    finally:
        stop.restore()
    if stop.wanted == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.wanted:
        sys.exit(128 + stop.wanted)


def _naming_file(moments: Iterable[Moment]) -> Iterator[Moment]:
    try:
        yield from moments
    except UserError as error:
        raise UserError(f"--video={error}") from error


def predict_camera(
    runs: list[tuple[object, Path]],
    name: str,
    window_s: float = CAMERA_WINDOW_S,
    seconds: float | None = None,
    annotate: Path | None = None,
) -> None:
    """Print the answers over a camera, a device or a stream, until `seconds` have passed or it ends.

    Ctrl-C and SIGTERM are how a camera is meant to end: status 0.
    """
    loaded = load_runs(runs, hops=True)
    annotation = annotate and Annotation(annotate)
    lead = max(run.lead for run in loaded)
    source = Camera(name, _short_sides(loaded), hop_s=window_s / HOPS, lead=lead, seconds=seconds)
    stop = StopSignals()
    try:
        watch = _Watch(loaded, source, window_s, annotation, f"--camera={name}")
        # Compiled before the first frame is waited for, since what arrives meanwhile would be dropped.
        watch.score(Hop((source.first(),) * (lead + 2), 2))
        watch.run(source.moments(lambda: bool(stop.wanted)), stop)
    finally:
        source.close()
        stop.restore()


def _short_sides(loaded: Sequence[LoadedRun]) -> list[int]:
    return sorted({settings.short_side for run in loaded for settings in run.settings})


@dataclass(frozen=True)
class _Scored:
    """The scores of one hop by each run."""

    start_s: float
    end_s: float
    anchors: int  # that no hop before had
    by_run: list[Heads]


class _Watch:
    """A JSON line on stdout for each hop, and on stderr how fast it goes.

    A hop is a quarter of the window: its frames, with as many before them as stacks need, become records as those that the
    nets were trained on, in a folder that is gone before the next hop. Each run scores ceil(`eval.frames` / 4) positions of
    a hop, spread evenly over the anchors that no hop before had, and an answer is the mean over the hops of the last
    window, each weighing as its anchors: so a window has `eval.frames` positions, spread as over a whole video but for
    the steps between hops. The first hop has the frames that lead in besides, and windows with it are longer by these.

    Of a hop of F new frames and stacks of L fields, F + L - 1 fields are computed: L - 1 of them, those between the frames
    that it shares with the hop before, for the second time.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedRun],
        source: VideoFile | Camera,
        window_s: float,
        annotation: Annotation | None,
        asked: str,
    ):
        self._loaded, self._source, self._window_s, self._asked = loaded, source, window_s, asked
        self._annotation, self._name = annotation, asked.partition("=")[2]
        self._lead = max(run.lead for run in loaded)
        self._positions = math.ceil(loaded[0].config.eval.frames / HOPS)
        self._scored: deque[_Scored] = deque()

    def run(self, moments: Iterable[Moment], stop: StopSignals) -> None:
        """Answer for every hop of the moments, until there are no more or a stop is wanted."""
        if self._annotation is None:
            self._answer_all(moments, stop)
            return
        with self._annotation.writing(self._source.rate):
            self._answer_all(moments, stop)
            self._annotation.finish()

    def _answer_all(self, moments: Iterable[Moment], stop: StopSignals) -> None:
        done, lost, note = 0, 0, ""
        with Progress(f"predict {self._name}", "frames") as progress:
            progress.update(0, self._total(1))
            for hop in cut_hops(moments, self._window_s / HOPS, self._lead):
                self._answer(hop)
                done, lost = done + hop.new, lost + hop.lost
                note = self._note(hop.end_s / progress.seconds, lost)
                progress.update(done, self._total(done), note)
                if stop.wanted:
                    break
            seconds = progress.seconds
        print(f"{done} frames in {seconds:.1f} s, {done / seconds:.1f} frames/s{note and ', '}{note}", file=sys.stderr)

    def _total(self, done: int) -> int | None:
        # A container's word for it may be too small.
        return max(self._source.total, done) if self._source.total else None

    def _note(self, times: float, lost: int) -> str:
        note = f"{times:.2f} times real time"
        return f"{note}, {self._source.dropped + lost} frames dropped" if isinstance(self._source, Camera) else note

    def score(self, hop: Hop) -> list[Heads]:
        """Return the scores of a hop by each run."""
        with tempfile.TemporaryDirectory(prefix="hop") as folder:
            return self._score_all(hop, {}, Path(folder))

    def _answer(self, hop: Hop) -> None:
        with tempfile.TemporaryDirectory(prefix="hop") as folder:
            records: dict = {}
            by_run = self._score_all(hop, records, Path(folder))
            anchors = max(1, hop.new - self._lead * hop.begins)
            self._scored.append(_Scored(hop.start_s, hop.end_s, anchors, by_run))
            # Those that are in it by more than half a hop, since not all are of one length.
            since = hop.end_s - self._window_s * (1 - 0.5 / HOPS)
            while self._scored[0].end_s <= since + 1e-6 and len(self._scored) > 1:
                self._scored.popleft()
            span = {"start_s": round(self._scored[0].start_s, 3), "end_s": round(hop.end_s, 3)}
            answer = describe(self._loaded, self._means())
            print(json.dumps(span | answer, ensure_ascii=False), flush=True)
            if self._annotation:
                drawn = shown_records(self._loaded, {key[0]: found for key, found in records.items()})
                heading = f"{span['start_s']:.1f} to {span['end_s']:.1f} s"
                times = [moment.start_s for moment in hop.moments[-hop.new :]]
                self._annotation.draw(drawn, hop.new, times, answer, heading=heading)

    def _score_all(self, hop: Hop, records: dict, folder: Path) -> list[Heads]:
        """Return what `score` does; puts the records by (settings, frames before) into `records`, made in `folder`."""
        by_run = []
        for run in self._loaded:
            keys = {settings: (settings, run.lead) for settings in run.settings}
            for settings, key in keys.items():
                if key not in records:
                    seen = hop.with_lead(run.lead)
                    video = Video("video", Path(self._name), 0, "video", {"1": "test"}, seen)
                    records[key] = one_video(video, settings, folder / str(len(records)), self._asked)
            by_run.append(run.score({settings: records[key] for settings, key in keys.items()}, self._positions))
        return by_run

    def _means(self) -> list[Heads]:
        """Return the mean scores of the window's hops by each run."""
        total = sum(scored.anchors for scored in self._scored)

        def mean(run: int, head: str) -> np.ndarray:
            return sum(scored.anchors * scored.by_run[run][head][1] for scored in self._scored) / total

        newest = self._scored[-1].by_run
        return [{h: (classes, mean(run, h)) for h, (classes, _) in heads.items()} for run, heads in enumerate(newest)]
