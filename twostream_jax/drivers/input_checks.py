"""Checks of a config's `input` section against its net, its flow and the records; each raises one line."""

from __future__ import annotations

from input_pipeline.dataset_file import Dataset
from input_pipeline.schema import UserError
from twostream_jax.models import check_clip, pool5_size

STACKINGS = ("flow", "trajectory")


def check_input(config) -> None:
    """Check what a sample is made of: clip and crop by the net, and the fields of a stack in both directions."""
    section = config.input
    check_clip(config.model.name, section.clip_frames)
    pool5_size(section.crop)
    if section.stacking not in STACKINGS:
        raise UserError(f"input.stacking={section.stacking!r}: choose one of {', '.join(STACKINGS)}")
    if "flow" not in section.streams or not section.bidirectional:
        return
    if section.stack % 2:
        raise UserError(
            f"input.stack={section.stack}: input.bidirectional=True takes half of the fields each way; give an even number"
        )
    if section.flow_offset:
        raise UserError(
            f"input.flow_offset={section.flow_offset}: input.bidirectional=True reaches half of the stack to each side of "
            "the anchor frame; set it to 0"
        )
    if not config.flow.backward:
        raise UserError(
            "flow.backward=False: input.bidirectional=True needs the flow from each frame to the one before too; set "
            "flow.backward=True and prepare records with it"
        )


def check_directions(config, section: str, records: str, stored: Dataset) -> None:
    """Check that the records, which the config's `section` names, hold flow in the directions that a stack takes."""
    both = "flow" in config.input.streams and config.input.bidirectional
    if both and not stored.flow.backward:
        raise UserError(
            f"{section}.records={records}: holds forward flow only, and input.bidirectional=True needs both "
            "directions; prepare another folder with flow.backward=True"
        )
