"""Spatial stream of the 2014 paper, pre-trained and fine-tuned (Sect. 5; Table 1a, "pre-trained + fine-tuning").

Expected: 72.8 % on UCF-101 split 1 (25x10) with dropout 0.9; 70.8 % with --config.model.dropout=0.5.
Cost: 20,000 steps of 256 frames, 2.47 TFLOP a step, on the records of configs/spatial.py.
Command: python run.py --config=configs/spatial_finetuned.py
Weights first: Oxford's VGG_CNN_M_2048.caffemodel into weights/, or --config.init.from=runs/imagenet
"""

from configs import spatial


def get_config():
    """Return the spatial recipe, begun with ImageNet's weights, on the paper's schedule of fine-tuning.

    Weights converted from Caffe carry its input scale in conv1, which then hardly moves (`pretrained.oxford.to_params`).
    """
    config = spatial.get_config()
    config.init["from"] = "weights/VGG_CNN_M_2048.caffemodel"
    config.optim.drops = (14_000,)
    config.train.steps = 20_000
    return config
