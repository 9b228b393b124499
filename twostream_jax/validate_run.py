"""What a checkpoint must have in common with the config and records it is used with, before any device work.

Each check raises `UserError` with one line that names the key, shows its value and says what to do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

from configs import base
from input_pipeline.schema import UserError, shown_name

# Keys that change neither samples, model nor optimizer: a run may continue with other values. The records are checked by
# their checksum, wherever they lie; what only `prepare` reads is settled once they are written.
FREE_ON_RESUME = (
    "train.steps", "train.checkpoint_every", "train.log_every", "train.accumulate", "train.profile", "train.deterministic",
    "data.num_threads", "data.num_workers", "data.prepare_processes", "data.max_bad_fraction",
    "data.records", "data.videos", "data.splits", "data.split_file", "data.allow_missing",
    "data.frames", "data.jpeg_bound_px", "data.spare_field", "data.motions", "data.camera_pan_px",
    "data.codec", "data.dct_planes", "flow.method", "flow.camera_compensation",
    "eval.frames", "eval.crops", "eval.subset", "eval.checkpoint", "eval.batch_size", "eval.validation_frames",
)  # fmt: skip
# What `FlowSettings.plain` leaves out.
_FLOW_AT_FIRST = {"flow.codec": "jpeg", "flow.dct_planes": 0, "flow.camera_compensation": False, "flow.version": ""}
# Where a task's records lie, that is.
TASK_RECORDS = re.compile(r"tasks\..+\.records")


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
    refused = [key for key in changed if key not in FREE_ON_RESUME and not TASK_RECORDS.fullmatch(key)]
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


def check_same_split(stored: dict, head: str, wanted: dict, section: str, workdir) -> None:
    """Refuse to score videos divided otherwise than in the training of a head: some would have been trained on.

    `section` of the `wanted` config names the videos that are to be scored: data, or tasks.NAME.
    """
    trained_in = f"tasks.{head}" if stored.get("tasks") else "data"
    before, now = _as_of(stored), _flatten(wanted)
    shared = ("data.validation_fraction", "data.seed")
    pairs = [(f"{trained_in}.{key}", f"{section}.{key}") for key in ("split", "folds")] + [(key, key) for key in shared]
    for theirs, ours in pairs:
        _refuse_changed({ours: before.get(theirs)}, {ours: now.get(ours)}, [ours], workdir)


def _refuse_changed(before: dict, now: dict, keys: list[str], workdir) -> None:
    for key in keys:
        if before.get(key) != now.get(key):
            raise UserError(
                f"{key}={now.get(key)!r}: the net in {workdir} was trained with {before.get(key)!r}; leave it at that"
            )


def check_same_records(stored: dict, wanted: dict, workdir, section: str, records) -> None:
    """Refuse to continue a run on other records than a task of it began with (`Task.facts`), naming what differs."""
    before, now = _FLOW_AT_FIRST | _flatten(stored), _FLOW_AT_FIRST | _flatten(wanted)
    changed = [key for key in (before | now) if before.get(key) != now.get(key)]
    if changed:
        # A checksum says nothing to the eye: it is shown only where nothing else differs.
        told = [key for key in changed if key != "checksum"] or changed
        listed = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in told)
        raise UserError(
            f"{section}.records={records}: not the records that the run in {workdir} began with: {listed}; "
            "use those, or another --workdir"
        )


def _short(fact) -> str:
    return str("none" if fact in (None, "") else fact)[:40]


def fingerprints(names: Iterable[str]) -> str:
    """Return what a checkpoint remembers of the videos that its net was trained on: eight letters each, sorted.

    They are the first 48 bits of each name's SHA-256: of ImageNet's 1.28 million and 50,000 other videos, one is taken
    for another with a chance of 0.02 %.
    """
    return _sorted_once("".join(map(_fingerprint, names)))


def all_fingerprints(some: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Return the fingerprints in either of two {data set's name: fingerprints}, each once."""
    return {name: _sorted_once(some.get(name, "") + more.get(name, "")) for name in some | more}


def _sorted_once(prints: str) -> str:
    return "".join(sorted({prints[i : i + 8] for i in range(0, len(prints), 8)}))


def _fingerprint(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()[:6]).decode()


def first_seen(trained: str, names: Iterable[str]) -> str | None:
    """Return the first of the names that is among the `fingerprints` of trained videos, None where there is none."""
    seen = {trained[i : i + 8] for i in range(0, len(trained), 8)}
    return next((name for name in names if _fingerprint(name) in seen), None)


def check_unseen(trained: str, names: Iterable[str], subset: str, workdir, section: str, records) -> None:
    """Refuse to score videos of `subset` that the net was trained on, naming the first; `trained` are `fingerprints`."""
    shared = first_seen(trained, names)
    if shared is not None:
        raise UserError(
            f"eval.subset={subset}: the net in {workdir} was trained on {shown_name(shared)}, which "
            f"{section}.records={records} now has in its {subset} videos; bring back that division and prepare, or train "
            "in another --workdir"
        )


def records_differ(stored: dict, found: dict, records: str) -> list[str]:
    """Return the line, if any, that warns of records made otherwise than those a net was trained on (`Task.facts`)."""
    keys = ("short_side", "flow")
    theirs, ours = (_flow_at_first(facts) | _flatten({key: facts[key] for key in keys}) for facts in (stored, found))
    differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    if not differing:
        return []
    here, there = (", ".join(f"{key} {_short(facts.get(key))}" for key in differing) for facts in (ours, theirs))
    return [f"warning: {records} was made with {here}; the net was trained on {there}"]


def _flow_at_first(facts: dict) -> dict:
    """Return what `FlowSettings.plain` leaves out of the flow in these facts, if there is any."""
    return _FLOW_AT_FIRST if facts["flow"] else {}


def prepared_otherwise(config, facts: dict, records: str) -> list[str]:
    """Return the lines that say where a task's records differ from what the config would prepare; the records rule."""
    flow = facts["flow"] or {"method": "none", "bound_px": config.flow.bound_px}
    pairs = {
        "data.short_side": (config.data.short_side, facts["short_side"]),
        "flow.method": (flow["method"] if config.flow.method == "auto" else config.flow.method, flow["method"]),
        "flow.camera_compensation": (config.flow.camera_compensation, flow.get("camera_compensation", False)),
        "flow.bound_px": (config.flow.bound_px, flow["bound_px"]),
    }
    if config.data.kind == "jpeg_folders":
        # JPEGs keep their size, and their flow, if any, is not computed.
        given = flow["method"] == "given"
        pairs = {"data.jpeg_bound_px": (config.data.jpeg_bound_px, flow["bound_px"])} if given else {}
    return [
        f"warning: {key} is {ours} in the config and {theirs} in {records}; the records rule"
        for key, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def check_same_classes(stored, wanted, workdir, section: str, records) -> None:
    """Refuse records whose class names differ from those a checkpoint was trained on; their order may differ."""
    if set(stored) != set(wanted):
        lacking = ", ".join(sorted(set(stored) - set(wanted))[:3]) or "none"
        unknown = ", ".join(sorted(set(wanted) - set(stored))[:3]) or "none"
        raise UserError(
            f"{section}.records={records}: classes differ from the checkpoint's in {workdir}: "
            f"missing {lacking}; unknown to the net {unknown}; use the records it was trained on"
        )


def check_runs_classes(runs: Sequence[dict], workdirs: Sequence) -> None:
    """Refuse to average runs, {head: classes} each, without a head of the first whose classes all others have too."""
    first, *others = runs
    for classes in first.values():
        if all(any(set(classes) == set(own) for own in heads.values()) for heads in others):
            return
    # Named is the first that has none of the first's heads or, where each has one, the first at all.
    same = {frozenset(classes) for classes in first.values()}
    odd = next((i for i, heads in enumerate(others) if not same & {frozenset(own) for own in heads.values()}), 0)
    ours, theirs = (set().union(*heads.values()) for heads in (first, others[odd]))
    only = [", ".join(sorted(a - b)[:3]) or "none" for a, b in ((ours, theirs), (theirs, ours))]
    raise UserError(
        f"--runs: {workdirs[0]} and {workdirs[odd + 1]} were trained on different classes "
        f"(only in the first: {only[0]}; only in the second: {only[1]}); give runs of one data set"
    )


def config_item_by_task(stored: dict) -> dict:
    """Return a checkpoint's `config` item as this version writes it; versions with one task only had no names there."""
    records = stored.get("records", {})
    if not isinstance(records.get("checksum"), str):
        return stored
    (task,) = stored["tasks"]
    trained = {records["name"]: stored.get("trained_videos", "")}
    return stored | {"records": {task: records}, "trained_videos": trained}
