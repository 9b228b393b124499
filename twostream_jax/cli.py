"""The command line: flags, config, one driver per mode, and one line for every mistake."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from pathlib import Path

from absl import flags

from input_pipeline.schema import UserError, first_line, one_line
from twostream_jax import cli_config, validate
from twostream_jax.cli_flags import MODES, USAGE, check_predict, define_flags
from twostream_jax.host_memory import computes_on_cpu, keep_freed_memory
from twostream_jax.xla_settings import heed_deterministic, keep_compiled_programs

# Those that go on where they were stopped.
RESUMED = ("train", "prepare", "demo", "table")
# Those that run nets, and those that may compute flow with jax.
COMPUTING = ("demo", "train", "eval", "table", "predict")
COMPILING = (*COMPUTING, "prepare", "inspect")


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with status 2 and one line on stderr for anything that a user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(a in ("-h", "--help", "--helpfull", "--helpshort") for a in arguments):
        print(USAGE)
        return
    try:
        _run(arguments)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` has; but work that was cut short has not ended well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if _mode_of(arguments) in RESUMED:
            with contextlib.suppress(OSError):
                print("error: nothing reads the output any more; the same command continues", file=sys.stderr)
            sys.exit(141)  # 128 + SIGPIPE, as a shell has it
    except OSError as error:
        print(f"error: {one_line(first_line(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"stopped{'; the same command continues' if _mode_of(arguments) in RESUMED else ''}", file=sys.stderr)
        sys.exit(130)


def _mode(values: flags.FlagValues) -> str:
    """Return the mode that is asked for, or the one that stands for none."""
    continues = values.workdir and (Path(values.workdir) / "config.json").is_file()
    return values.mode if values["mode"].present else ("train" if values.config or continues else "demo")


def _mode_of(arguments: list[str]) -> str:
    """Return the mode of a command line that has been read before."""
    values = define_flags()
    values(["run.py", *arguments], known_only=True)
    return _mode(values)


def _run(arguments: list[str]) -> None:
    values = define_flags()
    try:
        rest = values(["run.py", *arguments], known_only=True)[1:]
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())}; see --help") from error
    mode = _mode(values)
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    for name in {name for taken in MODES.values() for name in taken} - set(MODES[mode]):
        if values[name].present:
            fit = ", ".join(other for other, taken in MODES.items() if name in taken)
            raise UserError(f"--{name}: mode {mode} does not take it, only {fit}")
    _quiet_libraries()
    if mode in COMPILING and not computes_on_cpu():
        keep_compiled_programs()
    elif mode in COMPUTING:
        # Not where flow alone is computed, whose threads wait for each other's memory then: a tenth of the time.
        keep_freed_memory()
    if any(values[name].present for name in ("coordinator", "num_processes", "process_id")):
        from twostream_jax.mesh import start_processes

        start_processes(values.coordinator, values.num_processes, values.process_id)
    {
        "demo": _demo,
        "prepare": _prepare,
        "train": _train,
        "eval": _eval,
        "fuse": _fuse,
        "table": _table,
        "bench": _bench,
        "predict": _predict,
        "inspect": _inspect,
    }[mode](values, rest)


def _quiet_libraries() -> None:
    """Keep the libraries' information lines off the terminal; warnings of our own data code still show."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    for name in ("absl", "orbax", "jax"):
        logging.getLogger(name).setLevel(logging.ERROR)


# Drivers are imported where they are called: jax and grain take seconds, which `--help` and mistakes should not cost.


def _demo(values, rest) -> None:
    from twostream_jax.drivers.demo import demo

    config, name = cli_config.load(values.config or "configs/demo.py", rest)
    validate.check_one_checkpoint(config, "demo")
    heed_deterministic(config)
    demo(config, Path(values.workdir or f"runs/{name}"))


def _prepare(values, rest) -> None:
    from twostream_jax.drivers.prepare import prepare_records, verify_records

    config, name = cli_config.load(values.config or "configs/demo.py", rest)
    if config.data.kind == "synthetic":
        workdir = Path(values.workdir or f"runs/{name}")
        config.data.records = config.data.records or str(workdir / "records")
        config.data.videos = config.data.videos or str(workdir / "videos")
    if values.verify and values.dry_run:
        raise UserError("--verify and --dry_run: give one of them")
    if values.verify:
        verify_records(config)
    else:
        prepare_records(config, dry_run=values.dry_run)


def _train(values, rest) -> None:
    from twostream_jax.drivers.train import train

    if values.config:
        config, name = cli_config.load(values.config, rest)
        workdir = Path(values.workdir or f"runs/{name}")
    else:
        workdir = Path(values.workdir or "")
        if not values.workdir:
            raise UserError("--mode=train needs --config=configs/X.py, or --workdir=DIR of a run to continue")
        config = cli_config.load_stored(workdir, rest)
    heed_deterministic(config)
    train(config, workdir)


def _eval(values, rest) -> None:
    from twostream_jax.drivers.evaluate import evaluate, result_lines

    runs = [(cli_config.load_for_run(values.config, workdir, rest), workdir) for workdir in _runs_or_newest(values)]
    heed_deterministic(*(config for config, _ in runs))
    for config, workdir in runs:
        result = evaluate(config, workdir)
        print("\n".join(result_lines(workdir, result)))


def _fuse(values, rest) -> None:
    from twostream_jax.drivers.fuse import fuse, summary_lines

    if rest:
        raise UserError(f"{rest[0]}: mode fuse takes --scores, --train_scores and --workdir only")
    if not values.scores:
        raise UserError("--mode=fuse needs --scores=a.npz,b.npz, files that --mode=eval wrote")
    paths, train_paths = ([Path(p) for p in group] for group in (values.scores, values.train_scores))
    workdir = Path(values.workdir or "runs/fused")
    print("\n".join(summary_lines(fuse(paths, train_paths, workdir))))
    if not train_paths:
        print("no SVM: it needs --train_scores, made with --mode=eval --config.eval.subset=train")
    print(f"written to {workdir}")


def _table(values, rest) -> None:
    from twostream_jax.drivers.table import table

    config, name = cli_config.load(values.config or "configs/table.py", rest)
    tiny = config.table.scale == "tiny"
    if tiny and not values.config:
        config, name = cli_config.load("configs/table_tiny.py", rest)
    validate.check_one_checkpoint(config, "table")
    configs = {"ucf101": config}
    for place in ("hmdb51", "imagenet"):
        path = config.table[place]
        if path and (place == "hmdb51" or path.endswith(".py")):
            configs[place] = _place_config(place, path)
    heed_deterministic(*configs.values())
    folder = name if name.startswith("table") else f"table_{name}_tiny" if tiny else f"table_{name}"
    table(values.table, configs, Path(values.workdir or f"runs/{folder}"))


def _place_config(place: str, path: str):
    try:
        return cli_config.load(path, [])[0]
    except UserError as error:
        raise UserError(f"table.{place}: {error}") from error


def _bench(values, rest) -> None:
    from twostream_jax.bench.run import BENCHES, bench

    if not values.bench:
        raise UserError(f"--mode=bench needs --bench={','.join(BENCHES)}")
    config, _ = cli_config.load(values.config or "configs/bench.py", rest)
    bench(values.bench, config, Path(values.workdir or "runs/bench"))


def _predict(values, rest) -> None:
    check_predict(values)
    workdirs = [w for run in values.runs for w in cli_config.stream_workdirs(Path(run))] or _runs_or_newest(values)
    runs = [(cli_config.load_for_run("", workdir, rest), workdir) for workdir in workdirs]
    heed_deterministic(*(config for config, _ in runs))
    annotate = Path(values.annotate) if values.annotate else None
    if values.camera:
        from twostream_jax.drivers.windows import CAMERA_WINDOW_S, predict_camera

        predict_camera(runs, values.camera, values.window or CAMERA_WINDOW_S, values.seconds, annotate)
    elif values.window:
        from twostream_jax.drivers.windows import predict_video

        predict_video(runs, Path(values.video), values.window, annotate)
    else:
        from twostream_jax.drivers.predict import predict

        print(json.dumps(predict(runs, Path(values.video), annotate), indent=2, ensure_ascii=False))


def _inspect(values, rest) -> None:
    if any(values[name].present for name in ("video", "figures", "frame")):
        _draw_flow(values, rest)
        return
    from twostream_jax.drivers import inspect

    filters = Path(values.filters) if values.filters else None
    if filters and (filters.suffix != ".png" or not filters.parent.is_dir()):
        raise UserError(f"--filters={filters}: must be a .png in a folder that exists")
    if values.config and not values.workdir:
        if filters:
            raise UserError("--filters: needs a trained run; give --workdir=DIR")
        config, _ = cli_config.load(values.config, rest)
        results = [inspect.inspect_config(config)]
    else:
        runs = _runs_or_newest(values)
        if filters and len(runs) > 1:
            raise UserError(f"--filters={filters}: {values.workdir or 'runs'} holds two streams; give --workdir of one")
        results = [inspect.inspect_run(cli_config.load_for_run("", w, rest), w, filters) for w in runs]
    if values.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=2))
        return
    for result in results:
        print("\n".join(inspect.report_lines(result)))


def _draw_flow(values, rest) -> None:
    if not values.video or not values.figures:
        raise UserError("--mode=inspect draws the flow of a video with --video=FILE and --figures=DIR together")
    for name in ("workdir", "json", "filters"):
        if values[name].present:
            raise UserError(f"--{name}: not with --figures, whose settings come from --config")
    from twostream_jax.drivers.flow_figures import draw_flow

    config, _ = cli_config.load(values.config or "configs/demo.py", rest)
    for path in draw_flow(config, Path(values.video), Path(values.figures), values.frame):
        print(path)


def _runs_or_newest(values) -> list[Path]:
    """Return the workdirs that --workdir means: both streams of a two-stream run, or the one; without it, the newest."""
    if values.workdir:
        workdir = Path(values.workdir)
    elif values.config:
        workdir = Path("runs") / Path(values.config).stem
    else:
        workdir = cli_config.newest_run(Path("runs"))
        print(f"newest run: {workdir}", file=sys.stderr)
    return cli_config.stream_workdirs(workdir)
