"""Every check of a config, by itself and with its records, before any device work, on facts that the driver hands over.

Each raises `UserError` with one line that names the key, shows its value and says what to do.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from input_pipeline.schema import CODECS, FLOW_METHODS, SUBSETS, UserError, shown_name

KINDS = ("ucf101", "hmdb51", "csv", "folder", "jpeg_folders", "records", "tfds", "synthetic")
DTYPES = ("float32", "bfloat16")
# Part of the names of layers and of score files.
TASK_NAME = r"[\w+-]{1,60}"
# Last names of the files that init.from may name beside our own runs; both formats hold nets on RGB images.
WEIGHT_FILES = (".caffemodel", ".mat")


def _shown(value) -> str:
    """Return a value as it stands in an error; a damaged config.json may hold one of any length, sections included."""
    return " ".join(repr(value).split())[:80]


def _one_of(key: str, value, choices) -> None:
    if value not in choices:
        raise UserError(f"{key}={_shown(value)}: choose one of {', '.join(map(str, choices))}")


def _at_least(key: str, value, least) -> None:
    if value < least:
        raise UserError(f"{key}={value}: must be at least {least}")


def _share(key: str, value) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{key}={value}: must be a share, at least 0 and below 1")


def check_config(config, streams_of_models: dict[str, tuple[str, ...]]) -> None:
    """Check the values of a config by themselves; `streams_of_models` maps each net's name to the streams it takes."""
    _check_types(config)
    _check_choices(config, streams_of_models)
    _check_ranges(config)
    wanted = streams_of_models[config.model.name]
    if tuple(config.input.streams) != wanted:
        raise UserError(
            f"input.streams={','.join(config.input.streams)}: {config.model.name} takes {','.join(wanted)}; "
            f"set --config.input.streams=\"('{wanted[0]}',)\" or another model.name"
        )
    start = config.init["from"]
    if Path(start).suffix.lower() in WEIGHT_FILES and config.model.name != "cnn_m_spatial":
        raise UserError(
            f"init.from={start}: weights of CNN-M on RGB images, which fit cnn_m_spatial and not {config.model.name}; begin "
            "with a run of ours of that net, or leave init.from empty"
        )
    if config.data.kind == "jpeg_folders":
        _check_jpeg_folders(config)
    elif config.data.kind == "records":
        if config.data.codec != "dct":
            raise UserError(
                f"data.codec={config.data.codec}: data.kind=records stores flow of records as coefficients; set it to dct"
            )
        _check_all_planes(config)
    elif config.input.crop > config.data.short_side:
        raise UserError(
            f"input.crop={config.input.crop}: larger than the stored frames, data.short_side={config.data.short_side} px; "
            "lower the crop or prepare larger records"
        )


def _check_jpeg_folders(config) -> None:
    """Check what says how JPEGs are taken over; their size is known only once they are records."""
    _one_of("data.spare_field", config.data.spare_field, ("", "first", "last"))
    _at_least("data.jpeg_bound_px", config.data.jpeg_bound_px, 0)
    if config.data.codec == "dct":
        _check_all_planes(config)
    if config.flow.backward:
        raise UserError(
            "flow.backward=True: data.kind=jpeg_folders takes over flow that is there and computes none; set it to False"
        )


def _check_all_planes(config) -> None:
    if config.data.dct_planes != 64:
        raise UserError(
            f"data.dct_planes={config.data.dct_planes}: data.kind={config.data.kind} takes over all coefficients of the "
            "JPEGs; set it to 64"
        )


def _check_types(config) -> None:
    """Check that each key has the type of its default in configs/base.py, and that lists hold words, or whole numbers.

    The command line reads values as those types; a config file, or a damaged config.json, may hold anything.
    """
    for section, default in base.get_config().items():
        for key, wanted in default.items() if isinstance(default, ConfigDict) else ():
            _check_type(f"{section}.{key}", config[section][key], wanted)
    _check_type("seed", config.seed, 0)
    _check_tasks(config)
    for section, key in (("data", "classes"), ("data", "motions"), ("input", "streams"), ("init", "freeze")):
        if not all(isinstance(item, str) for item in config[section][key]):
            raise UserError(f"{section}.{key}={tuple(config[section][key])}: must be words, such as ('a', 'b')")
    if not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in config.optim.drops):
        raise UserError(f"optim.drops={tuple(config.optim.drops)}: must be steps, whole numbers from 0")


def check_task_name(where: str, name: str) -> None:
    """Check that a data set's name can be a task's; `where` says what has it."""
    if not isinstance(name, str) or not re.fullmatch(TASK_NAME, name):
        raise UserError(
            f"{where}: a task's name has letters, digits and _ + - only, at most 60; rename {shown_name(str(name))}"
        )


def _check_tasks(config) -> None:
    """Check each entry of `tasks` by itself: its name, its keys and their values."""
    for name, task in config.tasks.items():
        where, default = f"tasks.{name}", base.task("")
        check_task_name(where, name)
        if not isinstance(task, ConfigDict):
            raise UserError(f"{where}={_shown(task)}: must be base.task(records, ...)")
        for key in default:
            if key not in task:
                raise UserError(f"{where} has no key {key}; make it with base.task(records, ...)")
            _check_type(f"{where}.{key}", task[key], default[key])
        unknown = [key for key in task if key not in default]
        if unknown:
            raise UserError(f"{where} has an unknown key {unknown[0]}; there are {', '.join(default)}")
        if not all(isinstance(item, str) for item in task.classes):
            raise UserError(f"{where}.classes={tuple(task.classes)}: must be words, such as ('a', 'b')")
        for key in ("split", "folds"):
            _at_least(f"{where}.{key}", task[key], 0)
        if task.folds == 1:
            raise UserError(f"{where}.folds=1 is not a number of folds: give 2 or more, or 0 for the stored splits")
        if not task.share > 0:
            raise UserError(
                f"{where}.share={task.share}: must be above 0, the task's part of a batch beside the others'"
            )


def _check_type(key: str, value, wanted) -> None:
    """Check one value against its default; a whole number may stand for any number, and bound_px is checked apart."""
    if key == "flow.bound_px":
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = type(value) is type(wanted) or (isinstance(wanted, float) and whole)
    if not fits or (whole and abs(value) >= 2**31) or (isinstance(value, float) and not math.isfinite(value)):
        kinds = {
            bool: "true or false",
            int: "a whole number below 2^31",
            float: "a number",
            str: "a word",
            tuple: "a list",
        }
        raise UserError(f"{key}={_shown(value)}: must be {kinds[type(wanted)]}, such as {wanted!r}")


def _check_choices(config, streams_of_models) -> None:
    _one_of("data.kind", config.data.kind, KINDS)
    _one_of("data.codec", config.data.codec, CODECS)
    _one_of("flow.method", config.flow.method, ("auto", *FLOW_METHODS))
    _one_of("model.name", config.model.name, tuple(streams_of_models))
    _one_of("model.init", config.model.init, ("he", "caffe"))
    _one_of("train.dtype", config.train.dtype, DTYPES)
    _one_of("eval.subset", config.eval.subset, SUBSETS)
    _one_of("eval.crops", config.eval.crops, (1, 10))
    _one_of("table.scale", config.table.scale, ("full", "tiny"))
    bound = config.flow.bound_px
    number = isinstance(bound, int | float) and not isinstance(bound, bool)
    if bound != "video" and not (number and 0 < bound < math.inf):
        raise UserError(f"flow.bound_px={_shown(bound)}: give px above 0, or 'video' for each video's own largest")


def _check_ranges(config) -> None:
    at_least_one = {
        "data": ("short_side",),
        "input": ("stack", "crop", "clip_frames"),
        "train": ("batch_size", "steps", "checkpoint_every", "log_every", "accumulate"),
        "eval": ("frames", "batch_size", "validation_frames"),
        "table": ("seeds",),
    }
    at_least_zero = {
        "data": ("split", "folds", "num_threads", "num_workers", "prepare_processes", "seed"),
        "input": ("lighting",),
        "optim": ("warmup_steps", "weight_decay", "learning_rate"),
    }
    for least, sections in ((1, at_least_one), (0, at_least_zero)):
        for section, keys in sections.items():
            for key in keys:
                _at_least(f"{section}.{key}", config[section][key], least)
    if config.data.num_workers and not hasattr(os, "memfd_create"):
        raise UserError(
            f"data.num_workers={config.data.num_workers}: works on Linux only; set it to 0 and use data.num_threads"
        )
    _at_least("seed", config.seed, 0)
    _share("model.dropout", config.model.dropout)
    _share("optim.momentum", config.optim.momentum)
    _share("data.validation_fraction", config.data.validation_fraction)
    if not 1 <= config.data.dct_planes <= 64:
        raise UserError(f"data.dct_planes={config.data.dct_planes}: must be 1 to 64, the coefficients of a block")
    if not 0 <= config.data.max_bad_fraction <= 1:
        raise UserError(f"data.max_bad_fraction={config.data.max_bad_fraction}: must be a share between 0 and 1")
    if config.model.width <= 0:
        raise UserError(f"model.width={config.model.width}: must be above 0; 1 is the paper's net")
    profiled = profiled_steps(config.train.profile)
    if profiled and profiled[-1] > config.train.steps:
        raise UserError(
            f"train.profile={config.train.profile}: the run has train.steps={config.train.steps} steps; name earlier ones"
        )
    if list(config.optim.drops) != sorted(set(config.optim.drops)):
        raise UserError(f"optim.drops={tuple(config.optim.drops)}: steps must ascend")


def profiled_steps(wanted: str) -> range:
    """Return the steps, from 1, that train.profile names as 'START:STOP', both included; none for ''."""
    if not wanted:
        return range(0)
    found = re.fullmatch(r"([1-9]\d{0,9}):([1-9]\d{0,9})", wanted, re.ASCII)
    if not found or int(found[2]) < int(found[1]):
        raise UserError(
            f"train.profile={_shown(wanted)}: give START:STOP, the first and the last step to trace, such as '11:15', or ''"
        )
    return range(int(found[1]), int(found[2]) + 1)


def check_split(config) -> None:
    """Check that one split is named, as every mode but the demo, which can run them in turn, needs."""
    if config.data.split < 1 and not config.tasks:
        raise UserError(
            "data.split=0: only mode demo runs every split in turn; name one from 1 or, to train on all splits together, "
            "set tasks.NAME = base.task(records, split=0) in the config file"
        )


def check_one_checkpoint(config, mode: str) -> None:
    """Check that `eval.checkpoint` names one: mode eval alone takes several."""
    wanted = str(config.eval.checkpoint)
    if "," in wanted:
        raise UserError(
            f"eval.checkpoint={wanted}: mode {mode} scores one checkpoint, only mode eval takes several; name one"
        )


def check_records(config, section: str, records: str, stored_streams, smallest_side_px: int) -> None:
    """Check that the records hold the streams that the net takes, in frames large enough for its crop.

    `section` is where the config names them: data, or tasks.NAME.
    """
    missing = [stream for stream in config.input.streams if stream not in stored_streams]
    if missing:
        remedy = "another flow.method" if "flow" in missing else "RGB frames"
        raise UserError(
            f"{section}.records={records}: holds {', '.join(stored_streams)} but no {', '.join(missing)}; "
            f"prepare records with {remedy}, or choose another model.name"
        )
    if config.input.crop > smallest_side_px:
        raise UserError(
            f"input.crop={config.input.crop}: larger than the smallest stored frame side, {smallest_side_px} px in "
            f"{records}; lower the crop or prepare larger records"
        )


def check_devices(batch_size: int, accumulate: int, num_devices: int) -> None:
    """Check that each of the `accumulate` parts of a global batch divides over the devices."""
    parts = num_devices * accumulate
    if batch_size % parts:
        below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
        use = f"{below} or {above}" if below else str(above)
        of_each = f" in each of train.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"train.batch_size={batch_size}: must divide over the {num_devices} devices present{of_each}; use {use}"
        )
