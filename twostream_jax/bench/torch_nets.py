"""CNN-M-2048 and its training step in PyTorch: what our step is measured against. Needs the `bench` extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from twostream_jax.models.cnn_m import CONVOLUTIONS, FULL6, FULL7, POOLED
from twostream_jax.models.layers import LRN_ALPHA, LRN_BIAS, LRN_SIZE
from twostream_jax.preprocess import FLOW_SCALE_PX


class TorchCnnM(nn.Module):
    """CNN-M-2048 on [B, C, H, W]; one head. Dropout is the share dropped."""

    def __init__(self, channels: int, classes: int, *, normalised: tuple[str, ...], width: float, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for name, (out, kernel, stride, padding) in CONVOLUTIONS.items():
            out = max(8, round(out * width))
            layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU(inplace=True)]
            if name in normalised:
                # PyTorch divides alpha by the window, as Caffe does.
                layers.append(nn.LocalResponseNorm(LRN_SIZE, LRN_ALPHA * LRN_SIZE, 0.75, LRN_BIAS))
            if name in POOLED:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            channels = out
        self.features = nn.Sequential(*layers)
        full6, full7 = (max(8, round(n * width)) for n in (FULL6, FULL7))
        self.classifier = nn.Sequential(
            nn.LazyLinear(full6),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(full6, full7),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(full7, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, classes]."""
        return self.classifier(self.features(x).flatten(1))

    def load(self, params: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take over the weights of our net: HWIO becomes OIHW, and full6's input the order channel, y, x."""
        linear = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        head = next(name for name in params if name.startswith("full8"))
        for module, name in zip(linear, (*CONVOLUTIONS, "full6", "full7", head), strict=True):
            kernel = np.asarray(params[name]["kernel"])
            if name == "full6":
                kernel = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)
            else:
                kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(kernel.copy()))
                module.bias.copy_(torch.from_numpy(np.asarray(params[name]["bias"]).copy()))


def flow_input(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return float32 [B, 2L, H, W] of a uint8 batch: px less the field's mean, mirrored where asked, in our units."""
    levels = batch["flow"][:, 0].flatten(1, 2).float()
    bound = batch["bound"][:, None, None, None]
    px = levels * (2 * bound / 255) - bound - batch["mean"][:, 0].flatten(1)[:, :, None, None]
    flip = batch["flip"][:, None, None, None]
    sign = torch.tensor([-1.0, 1.0], device=px.device).repeat(px.shape[1] // 2)[None, :, None, None]
    return torch.where(flip, px.flip(-1) * sign, px) / FLOW_SCALE_PX


def training_step(
    net: nn.Module,
    batch: Mapping[str, torch.Tensor],
    optim,
    *,
    channels_last: bool,
    compiled: bool,
    half: bool,
) -> Callable[[], float]:
    """Return a function that makes one training step on the batch, waits for it, and returns the loss.

    `optim` is the config's section; momentum SGD with weight decay on kernels alone. `half` computes in bfloat16 (autocast).
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout).train()
    kernels = [p for name, p in net.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    groups = [{"params": kernels, "weight_decay": optim.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=optim.learning_rate, momentum=optim.momentum)
    device = next(net.parameters()).device

    def loss_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = net(flow_input(batch).contiguous(memory_format=layout))
        return nn.functional.cross_entropy(logits.float(), batch["label"].long())

    run = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(batch)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for the device

    return step
