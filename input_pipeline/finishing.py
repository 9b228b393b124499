"""Videos finished one by one, in worker processes: their records are kept in a folder until all of them are merged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from input_pipeline import flow_service, shards, workers
from input_pipeline.estimate import processes
from input_pipeline.fields import DeviceFlow, failures_named
from input_pipeline.quarantine import SetAside
from input_pipeline.stages import PrepareSettings, fingerprint, prepare_video
from input_pipeline.video_list import Video

# Videos set aside before a run that has too many of them ends early: enough to see what they have in common.
_LOOKED_AT = 50

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Finisher:
    """Finishes videos in the folder `partial`; `device_flow(method)` computes a device method's flow in this process."""

    partial: Path
    on_progress: Progress
    say: Say
    device_flow: DeviceFlow | None = None

    def __call__(
        self, videos: list[Video], settings: PrepareSettings, bad_limit: float = float("inf")
    ) -> dict[str, shards.FinishedVideo | SetAside]:
        """Finish every video that is not; return by name what is known of it, or why it is set aside.

        It ends early once more than `bad_limit` are set aside. Raises UserError when the device fails.
        """
        known = {v.name: shards.read_finished(self.partial, v.name, fingerprint(v, settings)) for v in videos}
        results = {name: found for name, found in known.items() if found and shards.is_whole(self.partial, name, found)}
        if results:
            self.say(f"{len(results)} of {len(videos)} videos were finished before and are kept")
        self.on_progress(len(results), len(videos), "")
        left = [video for video in videos if video.name not in results]
        bad = 0
        with contextlib.closing(self._finishing(left, settings)) as finishing:
            for video, result in finishing:
                results[video.name] = result
                if isinstance(result, SetAside):
                    bad += 1
                    self.say(f"{video.name} set aside: {result.reason}")
                self.on_progress(len(results), len(videos), video.name)
                if bad > max(bad_limit, _LOOKED_AT):
                    break
        return results

    def _finishing(self, videos: list[Video], settings: PrepareSettings) -> Iterator[tuple]:
        """Yield (video, what became of it) in the order in which they finish."""
        inline = settings.processes == 1
        with contextlib.ExitStack() as stack:
            start_flow = self.device_flow(settings.method) if settings.on_device else None
            if start_flow and videos and not inline:
                start_flow = stack.enter_context(flow_service.serving(start_flow))
            job = bind(prepare_video, partial=self.partial, settings=settings, start_flow=start_flow)
            finishing = stack.enter_context(
                contextlib.closing(workers.run(videos, job, processes(settings), inline=inline))
            )
            with failures_named(settings.method):
                yield from finishing
