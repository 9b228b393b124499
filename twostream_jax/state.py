"""What training carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
    """Parameters and optimizer state after `step` updates; a plain pytree, saved whole in a checkpoint.

    `params` holds every layer; `opt_state` has no arrays for those that `init.freeze` keeps as they are.
    """

    step: jax.Array
    params: Any
    opt_state: Any
