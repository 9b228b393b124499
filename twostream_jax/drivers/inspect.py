"""mode=inspect: parameters, config, steps and metrics of a run; without one, the parameters of a config's net."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from input_pipeline import dataset_file
from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import validate_run
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.setup import check_values
from twostream_jax.drivers.tasks import sections
from twostream_jax.models import build_model, parameter_table
from twostream_jax.optim import frozen_layers, trained_part
from twostream_jax.report.pictures import filters
from twostream_jax.run_log import read_metrics
from twostream_jax.steps import Inputs, abstract_params

# Classes of the official data sets, for a net that has no records yet.
OFFICIAL_CLASSES = {"ucf101": 101, "hmdb51": 51}
# Of runs from before that section was there.
NO_INIT = {"from": "", "freeze": ()}


def inspect_config(config) -> dict:
    """Return the parameter table of the config's net, which is built by shape only: {"model", "tasks", "total", ...}.

    `frozen` are the layers that init.freeze covers, `trained` counts the parameters of the others.
    """
    check_values(config)
    tasks = _tasks(config)
    params = abstract_params(build_model(config.model, tasks), Inputs.of(config.input))
    return {"model": config.model.name, "tasks": tasks, **_table(params, config.init.freeze)}


def inspect_run(config, workdir: Path, filters_path: Path | None = None) -> dict:
    """Return the parameter table, config, steps and last metrics of the run in `workdir`; draws conv1 if asked to.

    `filters` is the picture that was drawn.
    """
    check_values(config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = choose_step(checkpoints, str(config.eval.checkpoint))
        stored = checkpoints.config(step)
        tasks = {name: len(classes) for name, classes in stored["tasks"].items()}
        validate_run.check_same_net(stored["config"], config.to_dict(), workdir)
        abstract = abstract_params(build_model(config.model, tasks), Inputs.of(config.input))
        if filters_path is not None:
            params = checkpoints.restore_params(step, abstract, meshes.make_mesh())
            filters(filters_path, np.asarray(params["conv1"]["kernel"]), config.input.streams[0])
        result = {
            "workdir": str(workdir),
            "checkpoint": step,
            "steps": checkpoints.steps(),
            "best": checkpoints.best_step(),
            "model": config.model.name,
            "tasks": tasks,
            **_table(abstract, stored["config"].get("init", NO_INIT)["freeze"]),
            "records": stored["records"],
            "versions": stored["versions"],
            "config": stored["config"],
            "metrics": read_metrics(workdir)[-1:],
        }
        if filters_path is not None:
            result["filters"] = str(filters_path)
    return result


def report_lines(result: dict) -> list[str]:
    """Return the lines that the terminal shows of an inspection."""
    lines = [f"{result['model']}: " + ", ".join(f"{name} {n} classes" for name, n in result["tasks"].items())]
    width = max(len(row["name"]) for row in result["parameters"])
    for row in result["parameters"]:
        shape = " x ".join(map(str, row["shape"]))
        lines.append(f"  {row['name']:<{width}}  {shape:>20}  {row['count']:>12,}")
    lines.append(f"  {'total':<{width}}  {'':>20}  {result['total']:>12,}")
    if result["frozen"]:
        lines.append(f"  {'trained':<{width}}  {'':>20}  {result['trained']:>12,}")
        lines.append(f"frozen: {', '.join(result['frozen'])}")
    if "workdir" in result:
        saved = ", ".join(map(str, result["steps"]))
        best = f", best {result['best']}" if result["best"] is not None else ""
        named = ((task, facts["name"]) for task, facts in result["records"].items())
        data = ", ".join(name if task == name else f"{name} ({task})" for task, name in named)
        lines.append(f"{result['workdir']}: checkpoints at steps {saved}{best}; trained on {data}")
        source = result["config"].get("init", NO_INIT)["from"]
        if source:
            lines.append(f"began with the weights of {source}")
        for line in result["metrics"]:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in line.items())
            lines.append(f"last line of metrics.jsonl, loss and clip accuracy on training batches: {numbers}")
        if "filters" in result:
            lines.append(f"filters of the first layer drawn: {result['filters']}")
    return lines


def _table(params, freeze) -> dict:
    rows = [{"name": name, "shape": list(shape), "count": count} for name, shape, count in parameter_table(params)]
    frozen = frozen_layers(params, freeze)
    trained = sum(count for _, _, count in parameter_table(trained_part(params, frozen)))
    return {"parameters": rows, "total": sum(row["count"] for row in rows), "trained": trained, "frozen": list(frozen)}


def _tasks(config) -> dict[str, int]:
    """Return {task: classes} of a config that may have no records yet."""
    return dict(_classes(config, section, settings) for section, settings in sections(config).items())


def _classes(config, section: str, settings) -> tuple[str, int]:
    """Return the name of the task in a section of the config, and how many classes it has."""
    named = section.removeprefix("tasks.") if section != "data" else ""
    if settings.records and (Path(settings.records) / dataset_file.DATASET_FILE).exists():
        dataset = dataset_file.read_dataset(Path(settings.records))
        return named or dataset.name, len(dataset.classes)
    kind = named or config.data.kind
    if settings.classes:
        return kind, len(settings.classes)
    if kind in OFFICIAL_CLASSES:
        return kind, OFFICIAL_CLASSES[kind]
    raise UserError(
        f"{section}.records={settings.records}: no dataset.json there, so the number of classes is unknown; "
        f"run --mode=prepare first, or list {section}.classes"
    )
