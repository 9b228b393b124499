"""Slow fusion of 11 RGB frames (2014 paper, Sect. 6, "Temporal ConvNets", last paragraph; after Karpathy et al. 2014).

Expected: 56.4 % on UCF-101 split 1 (25x10), trained from scratch; the single-frame net has 52.3 %.
Cost: 80,000 steps of 256 clips, 8.0 TFLOP a step, three times those of configs/spatial.py.
Command: python run.py --config=configs/slow_fusion.py
Records: those of configs/temporal.py.
"""

from configs import spatial


def get_config():
    """Return the spatial net's config with a clip of 11 frames a sample."""
    config = spatial.get_config()
    config.model.name = "slow_fusion"
    config.input.clip_frames = 11
    return config
