"""Temporal stream on trajectory stacks (2014 paper, eq. 2; Table 1b, "trajectory stacking, L = 10", mean subtraction on).

Expected: 80.2 % on UCF-101 split 1 (25x10), trained from scratch with dropout 0.9; 79.6 % with input.mean_subtraction=False.
Cost: that of configs/temporal.py, and whole fields instead of crops to read and to copy to the device.
Command: python run.py --config=configs/trajectory.py
Records: those of configs/temporal.py.
"""

from configs import temporal


def get_config():
    """Return the temporal net's config with flow read along trajectories."""
    config = temporal.get_config()
    config.input.stacking = "trajectory"
    return config
