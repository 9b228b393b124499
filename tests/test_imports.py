"""The house rules of imports: who may import whom."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# From the top down; a module imports only from rooms below its own.
ROOMS = [
    {"cli"},
    {"cli_config", "cli_flags", "bench"},  # a bench measures what the drivers run
    {"drivers"},
    {"steps", "checkpoint", "run_log", "report"},
    {"models", "pretrained"},
    {"preprocess", "losses", "optim", "metrics", "state", "mesh", "flow"},
    {"validate", "validate_run", "bilinear", "scores", "files", "disk_errors", "host_memory", "xla_settings"},
]
HOST = sorted((ROOT / "input_pipeline").rglob("*.py"))
DEVICE = sorted((ROOT / "twostream_jax").rglob("*.py"))


def imported(path: pathlib.Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, `from a import b` counted as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> int:
    """Return the level of a module of twostream_jax, 0 at the top."""
    return next(level for level, rooms in enumerate(ROOMS) if name in rooms)


@pytest.mark.parametrize("path", HOST, ids=lambda p: p.name)
def test_host_knows_nothing_of_the_device(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"jax", "flax", "optax", "orbax", "twostream_jax", "tensorflow", "tensorflow_datasets"}
    assert ("grain" in roots) <= (path.name == "pipeline.py")


@pytest.mark.parametrize("path", DEVICE, ids=lambda p: str(p.relative_to(ROOT / "twostream_jax")))
def test_device_imports_downwards(path):
    own = path.relative_to(ROOT / "twostream_jax").parts[0].removesuffix(".py")
    names = imported(path)
    if own == "__init__":
        assert not names - {"__future__.annotations"}
        return
    for name in names:
        parts = name.split(".")
        if parts[0] == "input_pipeline" and own not in ("drivers", "bench"):
            assert parts[1] == "schema", f"{path} imports {name}"
        if parts[0] == "twostream_jax" and parts[1] != own:
            assert room(parts[1]) > room(own), f"{path} imports {name}, which is not below it"
    roots = {name.split(".")[0] for name in names}
    assert ("orbax" in roots) <= (own == "checkpoint")
    assert ("sklearn" in roots) <= (path.name == "fuse.py" or own == "report")
    if own not in ("models",):
        assert not any(name.startswith("flax.linen") for name in names)


def test_every_module_has_a_room():
    for path in DEVICE:
        own = path.relative_to(ROOT / "twostream_jax").parts[0].removesuffix(".py")
        if own != "__init__":
            room(own)
