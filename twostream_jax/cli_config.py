"""Where a config comes from: an experiment's file, or the run's own config.json; and the overrides laid over it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import base
from input_pipeline.schema import UserError, first_line
from twostream_jax.validate import TASK_NAME

STREAM_FOLDERS = ("spatial", "temporal")
# Of the config of every version.
SECTIONS = ("data", "flow", "input", "model", "optim", "train", "eval")


def load(path: str, overrides: list[str]) -> tuple[ConfigDict, str]:
    """Return the config of an experiment's file with the overrides applied, and the experiment's name.

    A path such as configs/temporal.py that does not exist here is looked up among the installed configs.
    """
    file = Path(path)
    if not file.is_file() and file.parts[:1] == ("configs",):
        file = Path(base.__file__).parent.joinpath(*file.parts[1:])
    if not file.is_file():
        raise UserError(f"--config={path}: no such file; the experiments are in configs/")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file; give one such as configs/temporal.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    # Whatever a user's own file raises is a mistake in that file.
    except Exception as error:
        raise UserError(f"--config={path}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={path}: get_config() returned {type(config).__name__}; return a ConfigDict")
    _check_keys(config, base.get_config(), f"--config={path}: ")
    return apply_overrides(config, overrides), file.stem


def load_stored(workdir: Path, overrides: list[str]) -> ConfigDict:
    """Return the config that a run stored in its workdir, with the overrides applied.

    UserError naming the file, and the key, where it does not hold every key of configs/base.py, and no other, with a
    value of the key's type: by hand, or by another version of this program, it may have become anything.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"--workdir={workdir}: holds no config.json; train there first, or name another workdir")
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a stored config ({first_line(error)}); train there again") from error
    config = base.get_config()
    with config.ignore_type():
        lacking = _fill(config, stored, "", path)
    if lacking:
        print(f"note: {path} lacks {', '.join(lacking)}, as of an older version; the defaults hold", file=sys.stderr)
    return apply_overrides(config, overrides)


def _fill(section: ConfigDict, stored, prefix: str, path: Path) -> list[str]:
    """Set every key of a section of `base` to what is stored of it; return those that are not stored.

    A version of the program may add keys and sections; without the sections that every version has, it is no config.
    """
    if not isinstance(stored, dict):
        raise _unfit(path, f"{prefix.rstrip('.') or 'it'} is {_shown(stored)}, must be a section of keys")
    unknown = [key for key in stored if key not in section]
    if unknown:
        raise _unfit(path, f"unknown key {_shown(prefix + unknown[0])}")
    lacking = []
    for key in section:
        name = prefix + key
        if name == "tasks":
            lacking += _fill_tasks(section[key], stored.get(key, {}), path)
            continue
        if key not in stored:
            if name in SECTIONS:
                raise _unfit(path, f"no key {name}")
            lacking.append(name)
            continue
        if isinstance(section[key], ConfigDict):
            lacking += _fill(section[key], stored[key], f"{name}.", path)
            continue
        kind, fits = _kind(section[key], key)
        if not fits(stored[key]):
            raise _unfit(path, f"{name} is {_shown(stored[key])}, must be {kind}")
        value = stored[key]
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(section[key], float) and isinstance(value, int):
            value = float(value)
        section[key] = value
    return lacking


def _fill_tasks(tasks: ConfigDict, stored, path: Path) -> list[str]:
    """Make an entry of `tasks` for each one stored, and set its keys; as `_fill`."""
    if not isinstance(stored, dict):
        raise _unfit(path, f"tasks is {_shown(stored)}, must be a section of keys")
    lacking = []
    for name, entry in stored.items():
        if not re.fullmatch(TASK_NAME, name):
            raise _unfit(path, f"tasks.{name} is no name of a task")
        tasks[name] = base.task("")
        lacking += _fill(tasks[name], entry, f"tasks.{name}.", path)
    return lacking


def _kind(default, key: str) -> tuple[str, Callable[[Any], bool]]:
    """Return what a key's stored value must be, in words and as a test."""
    if isinstance(default, bool):
        return "true or false", lambda value: isinstance(value, bool)
    if key == "bound_px":
        return "px above 0 or 'video'", lambda value: isinstance(value, str) or _is_number(value)
    if isinstance(default, str):
        return "a text", lambda value: isinstance(value, str)
    if key == "drops":
        return "a list of whole numbers", lambda value: isinstance(value, list) and all(map(_is_whole, value))
    if isinstance(default, tuple):
        return "a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value)
    return ("a whole number", _is_whole) if isinstance(default, int) else ("a number", _is_number)


def _is_whole(value) -> bool:
    # 63 bits: what NumPy's and jax's integers hold.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _shown(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _unfit(path: Path, what: str) -> UserError:
    return UserError(f"{path}: not a stored config ({what}); mend it, see configs/base.py, or train there again")


def _check_keys(config: ConfigDict, wanted: ConfigDict, where: str, prefix: str = "") -> None:
    """Refuse a config that lacks keys of `base` or has others, as one does that was not made from it."""
    for key in wanted:
        if key not in config or isinstance(wanted[key], ConfigDict) != isinstance(config[key], ConfigDict):
            raise UserError(f"{where}has no key {prefix}{key}; begin get_config() with base.get_config()")
        # Tasks have the user's own names; validate looks at them.
        if isinstance(wanted[key], ConfigDict) and key != "tasks":
            _check_keys(config[key], wanted[key], where, f"{prefix}{key}.")
    unknown = [key for key in config if key not in wanted]
    if unknown:
        raise UserError(f"{where}has an unknown key {prefix}{unknown[0]}; configs/base.py lists them all")


def load_for_run(config_path: str, workdir: Path, overrides: list[str]) -> ConfigDict:
    """Return the config for work on an existing run: that of `config_path` if given, else the one stored there."""
    return load(config_path, overrides)[0] if config_path else load_stored(workdir, overrides)


def apply_overrides(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """Return the config with `--config.section.key=value` arguments applied, the value read as the key's own type.

    Lists are written a,b or ('a', 'b'). UserError for an unknown flag or key, or a value of another type. (config_flags'
    own parser reads a,b as one word and leaves a mistyped key's AttributeError uncaught.)
    """
    config = config.copy_and_resolve_references()
    for argument in overrides:
        name, equals, text = argument.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"{argument}: not a flag; see --help, and set keys as --config.section.key=value")
        if not equals:
            raise UserError(f"{argument}: needs a value; write {name}=VALUE")
        section, key = _find(config, name.removeprefix("--config."), argument)
        value = _read_value(text, section[key], key, argument)
        with config.ignore_type():  # checked above; ConfigDict's own check would hold bound_px to one type
            section[key] = value
    return config


def _find(config: ConfigDict, path: str, argument: str) -> tuple[ConfigDict, str]:
    """Return the section that holds the key, and the key."""
    *sections, key = path.split(".")
    here = config
    for depth, name in enumerate([*sections, key]):
        if not isinstance(here, ConfigDict) or name not in here:
            known = list(here.keys()) if isinstance(here, ConfigDict) else []
            near = difflib.get_close_matches(name, known, 1)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}" if known else "it has no keys"
            )
            where = ".".join([*sections, key][:depth]) or "the config"
            raise UserError(f"{argument}: {where} has no key {name!r}; {hint}")
        if depth < len(sections):
            here = here[name]
    if isinstance(here[key], ConfigDict):
        raise UserError(f"{argument}: {path} is a section; set one of its keys: {', '.join(here[key].keys())}")
    return here, key


def _read_value(text: str, current, key: str, argument: str):
    """Return the text as a value of the current one's type; `bound_px` may be a number or a word."""
    if isinstance(current, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"{argument}: write true or false")
        return text.lower() == "true"
    if key == "bound_px":
        value = _literal(text)
        return float(value) if isinstance(value, int) else value
    if isinstance(current, str):
        return text.strip()
    if isinstance(current, tuple):
        if text[:1] in ("(", "["):
            value = _literal(text)
            if not isinstance(value, tuple | list):
                raise UserError(f"{argument}: not a list; write a,b or ('a', 'b')")
            return tuple(value) if key == "drops" else tuple(map(str, value))
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(map(_literal, parts)) if key == "drops" else tuple(parts)
    value = _literal(text)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(current):
        kind = {"int": "a whole number", "float": "a number"}[type(current).__name__]
        raise UserError(f"{argument}: must be {kind}")
    return value


def _literal(text: str):
    """Return the Python literal that the text is, or the text."""
    try:
        return ast.literal_eval(text)
    # The last two come of thousands of signs or brackets.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def newest_run(folder: Path) -> Path:
    """Return the run under `folder` whose config.json (its own or its streams') is the newest."""
    configs = [path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/config.json")]
    if not configs:
        raise UserError(
            f"--workdir: not given, and there is no run under {folder}/; train one first, or name its workdir"
        )
    newest = max(configs, key=lambda path: path.stat().st_mtime).parent
    return newest.parent if newest.name in STREAM_FOLDERS else newest


def stream_workdirs(workdir: Path) -> list[Path]:
    """Return the workdirs of both streams where `workdir` holds `spatial/` and `temporal/`, else the workdir itself."""
    streams = [workdir / name for name in STREAM_FOLDERS]
    if all(stream.is_dir() for stream in streams):
        return streams
    splits = sorted(path.name for path in workdir.glob("split[0-9]*") if path.is_dir())
    if splits and not (workdir / "config.json").exists():
        raise UserError(f"--workdir={workdir}: holds a run of each split; name one, such as {workdir / splits[0]}")
    return [workdir]
