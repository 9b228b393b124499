"""What stands in a batch on which training broke down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from input_pipeline.pipeline import DrawBatch
from input_pipeline.schema import UserError
from twostream_jax.files import write_json

BAD_BATCH_FILE = "bad_batch.json"
# Videos that the line on the terminal names; the file has all.
NAMED = 3


class NotFinite(Exception):
    """Training has met a number that is none: `what` ("the loss is nan") at `step`."""

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} at step {step}")
        self.what, self.step = what, step


def bad_batch(draw: DrawBatch, videos: Sequence[Sequence], step: int) -> dict:
    """Return the samples of the global batch of a step (from 1): {"step", "seed", "samples": [{"video", ...}]}.

    `videos` are those of each task's records. The samples are drawn anew, which is a pure function of seed and step.
    `anchor` counts frames; `crop` is the top left corner (y, x) in px of the stored frame.
    """
    drawn = draw(step - 1)
    columns = (drawn[key].tolist() for key in ("task", "video", "anchor", "y", "x", "flip"))
    samples = [
        {"video": videos[task][video].name, "anchor": anchor, "crop": [y, x], "flip": flip}
        for task, video, anchor, y, x, flip in zip(*columns, strict=True)
    ]
    return {"step": step, "seed": draw.seed, "samples": samples}


def refusal(error: NotFinite, batch: dict, workdir: Path, write: bool) -> UserError:
    """Return the line that ends the run; leaves the batch in `<workdir>/bad_batch.json` if `write`."""
    path = workdir / BAD_BATCH_FILE
    if write:
        write_json(path, {**batch, "what": error.what})
    names = list(dict.fromkeys(sample["video"] for sample in batch["samples"]))
    more = ", ..." if len(names) > NAMED else ""
    return UserError(
        f"{error} (its batch: {', '.join(names[:NAMED])}{more}; all in {path}): lower optim.learning_rate or set "
        "optim.warmup_steps; the checkpoints before it are kept"
    )
