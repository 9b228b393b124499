"""Spatial stream of the 2014 paper, only its last layer trained (Sect. 6; Table 1a, "pre-trained + last layer").

Expected: 72.7 % on UCF-101 split 1 (25x10) with dropout 0.5; 59.9 % with --config.model.dropout=0.9.
Cost: 20,000 steps of 256 frames, 0.85 TFLOP a step (nothing is computed backwards below full8).
Command: python run.py --config=configs/spatial_last_layer.py
Weights first: as for configs/spatial_finetuned.py
"""

from configs import spatial_finetuned


def get_config():
    """Return the fine-tuning recipe with all layers but full8 fixed: the spatial net of the paper's Tables 3 and 4."""
    config = spatial_finetuned.get_config()
    config.init.freeze = ("conv*", "full6", "full7")
    config.model.dropout = 0.5
    return config
