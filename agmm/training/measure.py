"""Measurements of a run: test split, training curves, class activation maps, coverage of the labels.

The processes of ``torchrun`` share every set of images.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agmm import evaluation, gmm, labels, networks
from agmm.data import sets
from agmm.data.split import Split
from agmm.evaluation import crf, predict
from agmm.host import machine
from agmm.objectives import AGMMpp
from agmm.rivals import cams, spml, toco
from agmm.training import loop
from agmm.training.batches import normalization
from agmm.training.run import AnyObjective, Run
from agmm.training.where import Context

MOST_IMAGES = 50  # images that are predicted together, if all of them have no more than `evaluation.PIXELS`
COUNTED_IMAGES = 1000  # images on which the coverage of the labels is counted, and the quality of CAMs


def autocast(run: Run, device: torch.device) -> torch.autocast:
    """Return the precision of a run's network."""
    return torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bfloat16")


def _uncompiled(run: Run) -> contextlib.AbstractContextManager[object]:
    """Run a compiled network as it is written, as it would be compiled for every size of the test images."""
    return torch.compiler.set_stance("force_eager") if run.compiled else contextlib.nullcontext()


def protocol(run: Run, split: Split) -> evaluation.Protocol:
    """Return how a run is tested on a split."""
    return evaluation.Protocol(
        normalization=normalization(run),
        scales=run.scales,
        flip=run.flip,
        merge=run.scale_merge,
        mirrored=split.mirrored,
        tile=run.tile,
        long_side=run.long_side,
        crf=crf.PARAMETERS[run.crf] if run.crf else None,
    )


def images_at_a_time(split: Split) -> int:
    """Return how many images of a split are predicted together."""
    height, width = split.images[0].shape[:2]
    return max(1, min(MOST_IMAGES, evaluation.PIXELS // (height * width)))


def confusion(net: nn.Module, split: Split, run: Run, device: torch.device, *, single_scale: bool = False) -> Tensor:
    """Return the confusion matrix (K, K) of a split by the run's protocol, or from one scale without flips."""
    loop.agree(net)
    rank, world = loop.rank_and_world()
    images, truth, size = split.images[rank::world], split.truth[rank::world], images_at_a_time(split)
    test = protocol(run, split)
    if single_scale:
        test = replace(test, scales=(1.0,), flip=False)
    with autocast(run, device), _uncompiled(run):
        matrix = evaluation.evaluate(net, images, truth, split.num_classes, test, batch_size=size, device=device)
    return loop.over_processes(matrix.to(device)).cpu()


@torch.no_grad()
def training_curves(net: nn.Module, objective: AnyObjective, context: Context) -> dict[str, float]:
    """Return the mIoU on training images of P, of P restricted to the image classes, and of G (supplement, Fig. 2).

    Whole images without augmentation, measured against the dense truth, which serves nothing else. G chooses among an
    image's labeled classes only, so P restricted in the same way is the fair comparison. A run that learns from image
    tags restricts P to these; it has G by its pseudo labels of the moment, and the mIoU of its CAMs. AGMM++ has G of
    its labels' mixture, too, and of the re-estimated means with one spread an image (`AGMMpp.other_scores`).
    """
    run, data = context.run, context.data
    tags = np.zeros((len(data), data.num_classes), bool) if context.image_tags is None else context.image_tags
    mixture = objective.inner if isinstance(objective, toco.FromTags) else objective
    matrices: dict[str, Tensor] = {}
    arrays = data.images, data.truth, context.sparse, tags
    for images, truth, label, tag in _shared(net, arrays, run.history_images, data, context.device):
        inputs = evaluation.to_input(images, normalization(run))
        label, maps = label.long(), {}
        with autocast(run, context.device), _uncompiled(run):
            features, logits = net(inputs)
            if isinstance(objective, toco.FromTags):
                activation = objective.maps_of_whole(net, inputs, tag[:, 1:], run.crop)
                maps["cam_miou"] = cams.with_background(activation, objective.options.background)
                label = objective.labels(activation, tag[:, 1:], images.movedim(-1, 1) / 255)
        labeled = gmm.components(label, data.num_classes).present
        image_classes = labeled if context.image_tags is None else tag
        maps |= {"p_miou": logits, "p_restricted_miou": logits.masked_fill(~image_classes[..., None, None], -torch.inf)}
        if mixture.has_mixture:
            scores = {"g_miou": mixture(features, logits, label, image_classes).scores}
            if isinstance(mixture, AGMMpp):
                scores |= {f"g_{name}_miou": g for name, g in mixture.other_scores(features, label).items()}
            maps |= {name: g.masked_fill(~labeled[..., None, None], -1) for name, g in scores.items()}
        for name, values in maps.items():
            matrix = evaluation.confusion_matrix(evaluation.best_class(values), truth, data.num_classes)
            matrices[name] = matrices.get(name, torch.zeros_like(matrix)) + matrix
    return {name: evaluation.mean_iou(loop.over_processes(matrix)) for name, matrix in matrices.items()}


@torch.no_grad()
def cam_miou(
    net: nn.Module,
    objective: toco.FromTags,
    split: Split,
    tags: np.ndarray,
    run: Run,
    device: torch.device,
    count: int | None = None,
) -> float:
    """Return the mIoU of the CAMs on the first ``count`` images, given their tags (N, K), as ToCo reports it."""
    matrix = torch.zeros(split.num_classes, split.num_classes, dtype=torch.int64, device=device)
    for images, truth, tag in _shared(net, (split.images, split.truth, tags), count, split, device):
        inputs = evaluation.to_input(images, normalization(run))
        with autocast(run, device):
            maps = objective.maps_of_whole(net, inputs, tag[:, 1:], run.crop)
        predicted = evaluation.best_class(cams.with_background(maps, objective.options.background))
        matrix += evaluation.confusion_matrix(predicted, truth, split.num_classes)
    return evaluation.mean_iou(loop.over_processes(matrix))


def _shared(
    net: nn.Module, arrays: tuple[Any, ...], count: int | None, split: Split, device: torch.device
) -> Iterator[list[Tensor]]:
    """Yield this process's batches of the arrays' first ``count`` elements; bring the network into eval mode."""
    net.eval()
    loop.agree(net)
    rank, world = loop.rank_and_world()
    aligned = [array[slice(rank, count, world)] for array in arrays]
    for batch in predict.batches(*aligned, batch_size=images_at_a_time(split), readers=predict.readers(device)):
        yield [predict.to_device(tensor, device) for tensor in batch]


def details(context: Context, net: networks.Segmenter, objective: AnyObjective) -> dict[str, Any]:
    """Return the provenance of network and labels, and what labels and CAMs are worth on a large set's first images."""
    run, data, counted = context.run, context.data, slice(COUNTED_IMAGES)
    amount = labels.coverage(context.sparse[counted], data.truth[counted], data.num_classes)
    coverage = amount.pair_share
    if context.image_tags is not None:
        present = np.stack([labels.image_classes(mask, data.num_classes) for mask in data.truth[counted]])
        coverage = context.image_tags[counted][present].mean()
    described = {
        "network": net.provenance,
        "init": f"{run.init}, run {run.pretraining.id}" if run.pretraining else run.init,
        "device": machine.device_name(context.device),
        "test_images": len(context.test),
        "train_images": len(data),
        "label_source": sets.label_source(data, run.labels, dict(run.label_options)),
        "labeled_share": float(amount.pixel_share),
        "labeled_pixels_per_image": float(amount.pixels_per_image),
        "coverage": float(coverage),
    }
    if isinstance(objective, toco.FromTags) and context.image_tags is not None:
        count = run.history_images or COUNTED_IMAGES
        test_tags = sets.image_tags(context.test, cache=context.where.cache)
        described |= {
            "cam_miou": cam_miou(net, objective, data, context.image_tags, run, context.device, count),
            "cam_miou_test": cam_miou(net, objective, context.test, test_tags, run, context.device),
        }
    return described | _regions(run, data)


def _regions(run: Run, data: Split) -> dict[str, str]:
    """Return which over-segmentation the embedding of SPML has learned from; nothing for other methods."""
    embedding: Run | None = run
    while embedding is not None and embedding.method == "SPMLClassifier":
        embedding = embedding.teacher
    if embedding is None or embedding.method != "SPML":
        return {}
    method = sets.chosen_regions(data, dict(embedding.options).get("regions", spml.SPML.regions))
    return {"regions": f"published ({sets.REGIONS_FOLDER})" if method == "published" else method}
