"""What XLA reads from the environment when jax starts: deterministic programs, and where compiled ones are kept."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from input_pipeline.schema import UserError, first_line

# Of a GPU's programs alone; those of CPUs and TPUs are deterministic as they are. XLA then takes no operation that adds
# in an order of the moment, and chooses none by timing.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Compiled programs are kept up to this size, the newest of them. (jax has a bound of its own, which needs a package that
# jax does not bring along.)
KEPT_BYTES = 2**30


def heed_deterministic(*configs) -> None:
    """Let XLA compile deterministic programs if one of the configs asks for it; to be called before jax starts a device."""
    if any(config.train.deterministic for config in configs):
        # Of flags that contradict each other, XLA takes the last.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


def require_deterministic(platform: str) -> None:
    """Refuse a GPU that does not compile deterministic programs; it heeds only what stood in XLA_FLAGS at its start."""
    if platform == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "").split():
        raise UserError(
            f"train.deterministic=True: the GPU was started without it; set XLA_FLAGS={DETERMINISTIC} before jax starts, or "
            "use the command line, which does"
        )


def keep_compiled_programs() -> None:
    """Let jax keep compiled programs in the user's cache folder, for the next start; to be called before jax is imported.

    JAX_COMPILATION_CACHE_DIR names another folder, and turns this off where it is empty. A folder that cannot be written
    costs one line on stderr. To be used with accelerators: programs for CPUs are kept as well where that variable asks
    for it, but XLA then prints errors of missing machine features on some Intel CPUs each time that it reads one back
    (github.com/openxla/xla/issues/44565).
    """
    own = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if own is not None:
        if not own:  # which jax would take for the folder it is called from
            del os.environ["JAX_COMPILATION_CACHE_DIR"]
        return
    home = os.environ.get("XDG_CACHE_HOME", "")
    # What is not absolute is to be ignored, says the XDG specification.
    folder = Path(home if os.path.isabs(home) else os.path.expanduser("~/.cache")) / "twostream-jax" / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _remove_oldest(folder)
    except OSError as error:
        print(
            f"note: {folder}: compiled programs cannot be kept ({first_line(error)}); "
            "JAX_COMPILATION_CACHE_DIR names another folder, or none",
            file=sys.stderr,
        )
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def _remove_oldest(folder: Path) -> None:
    """Remove the files written first until what is left fits KEPT_BYTES."""
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.rglob("*") if path.is_file()]
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)
