"""Temporal stream on HMDB-51 from a net trained on UCF-101 (2014 paper, Table 2, "fine-tuning a ConvNet").

Expected: 49.0 % on HMDB-51 split 1 (25x10), of a net that saw all of UCF-101; configs/temporal.py trains on its split 1.
Cost: 20,000 steps of 256 stacks, 3.44 TFLOP a step.
Command: python run.py --config=configs/temporal_hmdb51_from_ucf101.py
Weights first: python run.py --config=configs/temporal.py
"""

from configs import temporal_hmdb51


def get_config():
    """Return HMDB-51's recipe with the layers of runs/temporal under a full8 of its own, on the fine-tuning schedule."""
    config = temporal_hmdb51.get_config()
    config.init["from"] = "runs/temporal"
    config.optim.drops = (14_000,)
    config.train.steps = 20_000
    return config
