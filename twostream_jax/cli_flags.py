"""The command line's flags: which there are, and which mode takes which."""

from __future__ import annotations

import math
import os

from absl import flags

from input_pipeline.schema import UserError

# Each mode, and the flags that it takes beside --mode, --config, --workdir and --config.section.key.
MODES = {
    "demo": (),
    "prepare": ("dry_run", "verify"),
    "train": ("coordinator", "num_processes", "process_id"),
    "eval": ("coordinator", "num_processes", "process_id"),
    "fuse": ("scores", "train_scores"),
    "table": ("table",),
    "bench": ("bench",),
    "predict": ("video", "runs", "annotate", "window", "camera", "seconds"),
    "inspect": ("json", "filters", "video", "figures", "frame"),
}

USAGE = """usage: python run.py [--mode=M] [--config=configs/X.py] [--workdir=DIR] [--config.section.key=value ...]

  modes: demo (default without --config), train (default with it, or with the --workdir of a run),
         prepare [--dry_run | --verify], eval,
         fuse --scores=a.npz,b.npz [--train_scores=a.npz,b.npz], table --table=2014-1b, bench --bench=step,
         predict --video=FILE [--runs=DIR,DIR] [--annotate=FILE.mp4] [--window=SECONDS],
         predict --camera=0 [--runs=DIR,DIR] [--annotate=FILE.mp4] [--window=SECONDS] [--seconds=N],
         inspect [--json] [--filters=FILE.png], inspect --video=FILE --figures=DIR [--frame=N]
  several processes: --coordinator=HOST:PORT --num_processes=N --process_id=I
  README.md shows each at work; configs/base.py lists every key with its unit."""


def define_flags() -> flags.FlagValues:
    """Return the flags, not yet parsed."""
    values = flags.FlagValues()
    flags.DEFINE_string("mode", "", ", ".join(MODES), flag_values=values)
    flags.DEFINE_string("config", "", "an experiment's file", flag_values=values)
    flags.DEFINE_string("workdir", "", "folder of the run", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "prepare: print the cost and stop", flag_values=values)
    flags.DEFINE_boolean("verify", False, "prepare: check the records and repair them", flag_values=values)
    flags.DEFINE_list("scores", [], "fuse: score files of the streams", flag_values=values)
    flags.DEFINE_list("train_scores", [], "fuse: score files of the training videos", flag_values=values)
    flags.DEFINE_string("table", "", "table: which of the paper's", flag_values=values)
    flags.DEFINE_list("bench", [], "bench: what to measure", flag_values=values)
    flags.DEFINE_string("video", "", "predict, inspect: the video file", flag_values=values)
    flags.DEFINE_list("runs", [], "predict: workdirs", flag_values=values)
    flags.DEFINE_string("annotate", "", "predict: MP4 of frames, flow and top classes", flag_values=values)
    flags.DEFINE_float("window", None, "predict: seconds an answer is about; 0: the whole video", flag_values=values)
    flags.DEFINE_string("camera", "", "predict: a camera's number, a device or a stream", flag_values=values)
    flags.DEFINE_float("seconds", None, "predict: how long to watch the camera", flag_values=values)
    flags.DEFINE_boolean("json", False, "inspect: print JSON", flag_values=values)
    flags.DEFINE_string("filters", "", "inspect: PNG of the first layer's filters", flag_values=values)
    flags.DEFINE_string("figures", "", "inspect: folder for pictures of the flow in --video", flag_values=values)
    flags.DEFINE_integer("frame", None, "inspect: first frame of these pictures, from 0", flag_values=values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", 0, "how many processes", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "this one's number", flag_values=values)
    return values


def check_predict(values: flags.FlagValues) -> None:
    """Raise UserError unless the flags of mode=predict go together."""
    if not values.video and not values.camera:
        raise UserError("--mode=predict needs --video=FILE, or --camera=0")
    if values.video and values.camera:
        raise UserError(f"--video={values.video} and --camera={values.camera}: give one of them")
    for name in ("video", "camera"):
        # By what the file is, not by its name: a link leads to it too.
        if values.annotate and values[name].value and _same_file(values.annotate, values[name].value):
            raise UserError(f"--annotate={values.annotate}: is --{name} itself; give another name")
    window, seconds = values.window, values.seconds
    if window is not None and not (math.isfinite(window) and window >= 0):
        raise UserError(f"--window={window:g}: give the seconds that an answer is about, or 0 for the whole video")
    if values.camera and window == 0:
        raise UserError("--window=0: a camera has no end; give the seconds that an answer is about, such as 2")
    if seconds is not None and not values.camera:
        raise UserError(f"--seconds={seconds:g}: is for --camera; a video is read to its end")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--seconds={seconds:g}: must be above 0; leave it out to watch until Ctrl-C")


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except (OSError, ValueError):  # what is not there is nothing else's file
        return False
