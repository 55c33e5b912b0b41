"""Pretraining of a backbone on image tags: the embedded counterpart of ImageNet weights."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agmm import evaluation, networks, objectives
from agmm.data import sets
from agmm.data.split import Split
from agmm.host import machine
from agmm.objectives.common import Batch
from agmm.training import batches, loop, weights
from agmm.training.run import Run
from agmm.training.where import Where


def train_image_tags(run: Run, where: Where, device: torch.device) -> loop.Outcome:
    """Train a backbone to predict which classes images show; reports the share of correct tags."""
    data, test = where.load(run, "pretrain"), where.load(run, "test")
    segmenter = weights.build_network(run, data.num_classes)
    net = networks.TagClassifier(segmenter, data.num_classes - 1)
    net.to(device).to(memory_format=torch.channels_last)
    unused = torch.zeros(len(data), *data.truth[0].shape, dtype=torch.uint8, device=device)
    mirrored = None if data.mirrored is None else tuple(k - 1 for k in data.mirrored[1:])
    source = batches.InMemory(run, _images(data).to(device), unused, _tags(data).to(device), mirrored)

    def loss(module: nn.Module, batch: Batch) -> objectives.Output:
        bce = F.binary_cross_entropy_with_logits(module(batch.images), batch.image_classes.float())
        return objectives.Output(bce, {"tags": bce})

    groups = [{"params": list(net.parameters()), "lr": run.lr}]
    steps = batches.steps(run, len(source))
    progress = loop.fit(run, net, groups, source.epoch, steps, loss, lambda epoch: {}, run.folder(where.results))
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(evaluation.to_input(part.to(device))) for part in _images(test).split(100)])
    accuracy = 100 * ((logits > 0) == _tags(test).to(device)).float().mean().item()
    details = {"network": segmenter.provenance, "metric": "correct tags, %", "device": machine.device_name(device)}
    return loop.Outcome(segmenter.backbone, progress, len(data), accuracy, [], [], details)


def _images(split: Split) -> Tensor:
    return torch.from_numpy(np.asarray(split.images))


def _tags(split: Split) -> Tensor:
    """Return the tags (N, K - 1) of all images, without the background."""
    return torch.from_numpy(sets.image_tags(split)[:, 1:])
