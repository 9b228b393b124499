"""Every check before any device work, on plain facts that the driver hands over.

Each raises `UserError` with one line that names the key, shows its value and says what to do.
"""

from __future__ import annotations

import math
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from input_pipeline.schema import FLOW_METHODS, SUBSETS, UserError

KINDS = ("ucf101", "hmdb51", "csv", "folder", "jpeg_folders", "tfds", "synthetic")
DTYPES = ("float32", "bfloat16")
# Last names of the files that init.from may name beside our own runs; both formats hold nets on RGB images.
WEIGHT_FILES = (".caffemodel", ".mat")

# Keys that change neither samples, model nor optimizer: a run may continue with other values. The records are checked by
# their checksum, wherever they lie; what only `prepare` reads is settled once they are written.
FREE_ON_RESUME = (
    "train.steps", "train.checkpoint_every", "train.log_every",
    "data.num_threads", "data.num_workers", "data.prepare_processes", "data.max_bad_fraction",
    "data.records", "data.videos", "data.splits", "data.split_file", "data.allow_missing",
    "data.frames", "data.jpeg_bound_px", "data.spare_field", "data.motions", "data.camera_pan_px",
    "eval.frames", "eval.crops", "eval.subset", "eval.checkpoint", "eval.batch_size", "eval.validation_frames",
)  # fmt: skip


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
    elif config.input.crop > config.data.short_side:
        raise UserError(
            f"input.crop={config.input.crop}: larger than the stored frames, data.short_side={config.data.short_side} px; "
            "lower the crop or prepare larger records"
        )


def _check_jpeg_folders(config) -> None:
    """Check what says how JPEGs are taken over; their size is known only once they are records."""
    _one_of("data.spare_field", config.data.spare_field, ("", "first", "last"))
    _at_least("data.jpeg_bound_px", config.data.jpeg_bound_px, 0)
    if config.flow.backward:
        raise UserError(
            "flow.backward=True: data.kind=jpeg_folders takes over flow that is there and computes none; set it to False"
        )


def _check_types(config) -> None:
    """Check that each key has the type of its default in configs/base.py, and that lists hold words, or whole numbers.

    The command line reads values as those types; a config file, or a damaged config.json, may hold anything.
    """
    for section, default in base.get_config().items():
        for key, wanted in default.items() if isinstance(default, ConfigDict) else ():
            _check_type(f"{section}.{key}", config[section][key], wanted)
    _check_type("seed", config.seed, 0)
    for section, key in (("data", "classes"), ("data", "motions"), ("input", "streams"), ("init", "freeze")):
        if not all(isinstance(item, str) for item in config[section][key]):
            raise UserError(f"{section}.{key}={tuple(config[section][key])}: must be words, such as ('a', 'b')")
    if not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in config.optim.drops):
        raise UserError(f"optim.drops={tuple(config.optim.drops)}: must be steps, whole numbers from 0")


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
    _one_of("flow.method", config.flow.method, FLOW_METHODS)
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
        "train": ("batch_size", "steps", "checkpoint_every", "log_every"),
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
    _at_least("seed", config.seed, 0)
    _share("model.dropout", config.model.dropout)
    _share("optim.momentum", config.optim.momentum)
    _share("data.validation_fraction", config.data.validation_fraction)
    if not 0 <= config.data.max_bad_fraction <= 1:
        raise UserError(f"data.max_bad_fraction={config.data.max_bad_fraction}: must be a share between 0 and 1")
    if config.model.width <= 0:
        raise UserError(f"model.width={config.model.width}: must be above 0; 1 is the paper's net")
    if list(config.optim.drops) != sorted(set(config.optim.drops)):
        raise UserError(f"optim.drops={tuple(config.optim.drops)}: steps must ascend")


def check_split(config) -> None:
    """Check that one split is named, as every mode but the demo, which can run them in turn, needs."""
    if config.data.split < 1:
        raise UserError("data.split=0: only mode demo runs every split in turn; name one from 1")


def check_records(config, stored_streams, smallest_side_px: int) -> None:
    """Check that the records hold the streams that the net takes, in frames large enough for its crop."""
    missing = [stream for stream in config.input.streams if stream not in stored_streams]
    if missing:
        remedy = "another flow.method" if "flow" in missing else "RGB frames"
        raise UserError(
            f"data.records={config.data.records}: holds {', '.join(stored_streams)} but no {', '.join(missing)}; "
            f"prepare records with {remedy}, or choose another model.name"
        )
    if config.input.crop > smallest_side_px:
        raise UserError(
            f"input.crop={config.input.crop}: larger than the smallest stored frame side, {smallest_side_px} px in "
            f"{config.data.records}; lower the crop or prepare larger records"
        )


def check_devices(batch_sizes: dict[str, int], num_devices: int) -> None:
    """Check that each global batch ({"train.batch_size": 256, ...}) divides over the devices."""
    for key, size in batch_sizes.items():
        if size % num_devices:
            below, above = size // num_devices * num_devices, -(-size // num_devices) * num_devices
            use = f"{below} or {above}" if below else str(above)
            raise UserError(f"{key}={size}: must divide over the {num_devices} devices present; use {use}")


def _flatten(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _as_of(stored: dict) -> dict:
    """Return a checkpoint's config, flat; keys that its version did not have are at their defaults."""
    return _flatten(base.get_config().to_dict()) | _flatten(stored)


def check_resume(stored: dict, wanted: dict, workdir) -> list[str]:
    """Return the lines that say which free keys changed since the checkpoint; refuse when any other key did.

    stored, wanted: the configs as nested dicts. Refusing names every differing key with both values.
    """
    before, now = _as_of(stored), _flatten(wanted)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    refused = [key for key in changed if key not in FREE_ON_RESUME]
    if refused:
        listed = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in refused)
        raise UserError(
            f"--workdir={workdir}: its run cannot continue, {listed}; restore these or use another --workdir"
        )
    return [f"continues with {key} {now.get(key)!r} instead of {before.get(key)!r}" for key in changed]


def check_start(stored: dict, wanted: dict, start) -> None:
    """Refuse to begin with the weights of another net than the config's; both configs nested dicts, `start` init.from."""
    before, now = _flatten(stored), _flatten(wanted)
    for key in ("model.name", "model.width"):
        if before.get(key) != now.get(key):
            raise UserError(
                f"init.from={start}: its net has {key}={before.get(key)!r}, this config's {now.get(key)!r}; set the same, "
                "or choose other weights"
            )


def check_same_net(stored: dict, wanted: dict, workdir) -> None:
    """Refuse to score with other inputs or another net than a checkpoint was trained with; both configs nested dicts.

    How training batches were augmented does not matter.
    """
    before, now = _as_of(stored), _flatten(wanted)
    keys = [key for key in sorted(before.keys() | now.keys()) if key.split(".")[0] in ("input", "model")]
    _refuse_changed(before, now, [key for key in keys if key not in ("input.flip", "input.lighting")], workdir)


def check_same_split(stored: dict, wanted: dict, workdir) -> None:
    """Refuse to score videos divided otherwise than in training: some would have been trained on."""
    keys = [f"data.{key}" for key in ("split", "folds", "validation_fraction", "seed")]
    _refuse_changed(_as_of(stored), _flatten(wanted), keys, workdir)


def _refuse_changed(before: dict, now: dict, keys: list[str], workdir) -> None:
    for key in keys:
        if before.get(key) != now.get(key):
            raise UserError(
                f"{key}={now.get(key)!r}: the net in {workdir} was trained with {before.get(key)!r}; leave it at that"
            )


def check_same_records(stored: dict, wanted: dict, workdir, records) -> None:
    """Refuse to continue a run on other records than it began with (`Setup.records_facts`), naming what differs."""
    before, now = _flatten(stored), _flatten(wanted)
    changed = [key for key in (before | now) if before.get(key) != now.get(key)]
    if changed:
        # A checksum says nothing to the eye: it is shown only where nothing else differs.
        told = [key for key in changed if key != "checksum"] or changed
        listed = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in told)
        raise UserError(
            f"data.records={records}: not the records that the run in {workdir} began with: {listed}; "
            "use those, or another --workdir"
        )


def _short(fact) -> str:
    return str(fact)[:40]


def records_differ(stored: dict, found: dict, records: str) -> list[str]:
    """Return the lines that warn of records made otherwise than those a net was trained on (`Setup.records_facts`)."""
    lines = []
    for key in ("short_side", "flow"):
        if stored[key] != found[key]:
            lines.append(f"warning: {records} was made with {key} {found[key]}, the net was trained on {stored[key]}")
    return lines


def prepared_otherwise(config, facts: dict) -> list[str]:
    """Return the lines that say where the records differ from what the config would prepare; the records rule."""
    flow = facts["flow"] or {"method": "none", "bound_px": config.flow.bound_px}
    pairs = {
        "data.short_side": (config.data.short_side, facts["short_side"]),
        "flow.method": (config.flow.method, flow["method"]),
        "flow.bound_px": (config.flow.bound_px, flow["bound_px"]),
    }
    if config.data.kind == "jpeg_folders" and flow["method"] == "given":
        pairs = {"data.jpeg_bound_px": (config.data.jpeg_bound_px, flow["bound_px"])}
    return [
        f"warning: {key} is {ours} in the config and {theirs} in {config.data.records}; the records rule"
        for key, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def check_same_classes(stored, wanted, workdir, records) -> None:
    """Refuse records whose class names differ from those a checkpoint was trained on; their order may differ."""
    if set(stored) != set(wanted):
        lacking = ", ".join(sorted(set(stored) - set(wanted))[:3]) or "none"
        unknown = ", ".join(sorted(set(wanted) - set(stored))[:3]) or "none"
        raise UserError(
            f"data.records={records}: classes differ from the checkpoint's in {workdir}: "
            f"missing {lacking}; unknown to the net {unknown}; use the records it was trained on"
        )


def check_runs_classes(first, other, first_dir, other_dir) -> None:
    """Refuse to average two runs whose nets tell other classes apart; their order may differ."""
    if set(first) != set(other):
        only = [", ".join(sorted(set(a) - set(b))[:3]) or "none" for a, b in ((first, other), (other, first))]
        raise UserError(
            f"--runs: {first_dir} and {other_dir} were trained on different classes "
            f"(only in the first: {only[0]}; only in the second: {only[1]}); give runs of one data set"
        )
