"""What training carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
    """Parameters and optimizer state after `step` updates; a plain pytree, saved whole in a checkpoint."""

    step: jax.Array
    params: Any
    opt_state: Any
