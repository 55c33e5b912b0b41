"""DenseCRF loss: the energy of a fully connected CRF (`agmm.evaluation.crf`) as a regularizer.

M. Tang et al., "On regularized losses for weakly-supervised CNN segmentation", ECCV 2018; official code: rloss. With
probabilities S_k of class k, positions p in pixels and colors I in gray levels of an image's n pixels:

    loss      = - sum_k S_k' W S_k
    W_ij      = exp(-|p_i - p_j|^2 / (2 sigma_xy^2) - |I_i - I_j|^2 / (2 sigma_rgb^2))
    dloss/dS  = - 2 W S

The paper's ``sum_k S_k' W (1 - S_k)``, the Potts energy of the CRF relaxed to probabilities, differs from it by
``sum_ij W_ij``, which depends on the image alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm.codes import VOID
from agmm.evaluation.crf import Backend, Filter, gaussian_filter, pixel_features
from agmm.losses import Counts, partial_cross_entropy
from agmm.objectives import Objective, Output, batch_loss, full_precision, one_of

SizeRule = Literal["as_given", "fixed_sigma", "scaled_sigma"]

WEIGHTS = {"lattice": 2.4e-8, "exact": 1.3e-8}
"""Weight of the loss beside a mean cross-entropy, at 513 x 513 and scale 0.5. The official code's 2e-9 times its batch
size of 12, as it divides the mean by the batch size again; less for the exact kernel, whose sums are larger."""
REFERENCE_SIDE = 513


def pairwise_energy(
    probabilities: Tensor,
    images: Tensor,
    region: Tensor,
    *,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    backend: Backend = "lattice",
    unlabeled: Tensor | None = None,
) -> Tensor:
    """Return ``-sum_k S_k' W S_k``, averaged over images, not weighted: a sum over pairs of pixels, see `at_crop_size`.

    Probabilities S (B, K, H, W) are the softmax of the segmentation, ``images`` (B, 3, H, W) RGB in 0 … 255. In the
    ``region`` (B, H, W) bool are the pixels that take part: the image, not its padding; 0, with a graph, if it is
    empty. ``sigma_rgb`` is in gray levels, ``sigma_xy`` in pixels of the unreduced image, ``scale`` at most 1.
    As in the official code, all maps are first reduced by ``scale``, images and region by nearest neighbor,
    probabilities bilinearly; the region masks the probabilities before the filter and the gradient after it; and the
    gradient is ``-2 W S``, of which the lattice's is only close to the derivative, as its W is not quite symmetric.
    ``unlabeled`` (B, H, W) bool makes a gate of the energy (ToCo, AFA): 1 at these pixels, elsewhere what the
    segmentation lacks of certainty, ``1 - max_k S_k``; it is taken as constant.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        segmentation, mask = full_precision(probabilities), region.unsqueeze(1)
        if scale != 1:
            images, mask = (F.interpolate(maps.float(), scale_factor=scale, mode="nearest") for maps in (images, mask))
            segmentation = F.interpolate(segmentation, scale_factor=scale, mode="bilinear", align_corners=False)
        gate = None
        if unlabeled is not None:
            missing = F.interpolate(unlabeled[:, None].to(segmentation), size=segmentation.shape[2:]) > 0  # nearest
            gate = torch.where(missing, 1, 1 - segmentation.detach().amax(1, keepdim=True)).flatten(2).transpose(1, 2)
        segmentation = (segmentation * mask.to(segmentation)).flatten(2).transpose(1, 2)
        kernel = gaussian_filter(pixel_features(images, scale * sigma_xy, sigma_rgb), backend)
        return _PairwiseEnergy.apply(segmentation, kernel, gate) / len(probabilities)


class _PairwiseEnergy(torch.autograd.Function):
    """``-sum_k S_k' W S_k`` of S (B, n, K) and its gradient ``-2 W S``; a gate (B, n, 1) is a factor on ``W S``."""

    @staticmethod
    def forward(ctx: Any, segmentation: Tensor, kernel: Filter, gate: Tensor | None) -> Tensor:
        filtered = kernel(segmentation)
        if gate is not None:
            filtered = gate * filtered
        ctx.save_for_backward(filtered)
        return -(segmentation * filtered).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (filtered,) = ctx.saved_tensors
        return -2 * grad * filtered, None, None


def at_crop_size(weight: float, sigma_xy: float, size: tuple[int, int], rule: SizeRule) -> tuple[float, float]:
    """Return the loss's weight and spatial sigma for crops of another size (H, W) than 513 x 513 (ours, in no paper).

    The loss is a sum over pairs of pixels: it grows with the crop's area where sigma stays the same, and with the
    square of the area where sigma grows with the crop. The rule "as_given" changes nothing, "fixed_sigma" the weight
    alone, "scaled_sigma" both, which suits crops that are not much larger than sigma.
    """
    ratio = REFERENCE_SIDE**2 / (size[0] * size[1])
    if rule == "as_given":
        return weight, sigma_xy
    if rule == "fixed_sigma":
        return weight * ratio, sigma_xy
    if rule == "scaled_sigma":
        return weight * ratio**2, sigma_xy / ratio**0.5
    raise ValueError(f"size_rule is {rule!r}; known: as_given, fixed_sigma, scaled_sigma")


@dataclass(frozen=True)
class DenseCRFLoss(Objective):
    """Partial cross-entropy and the DenseCRF loss, trained together from the start (Tang et al. 2018)."""

    num_classes: int
    weight: float | None = None  # of the DenseCRF loss; default: the backend's of `WEIGHTS`
    sigma_rgb: float = 15.0  # these three and the backend as in `pairwise_energy`
    sigma_xy: float = 100.0
    scale: float = 0.5  # another one needs another weight
    size_rule: SizeRule = "fixed_sigma"  # how the weight follows the crop, see `at_crop_size`
    backend: Backend = "lattice"

    needs = ("images",)

    def __post_init__(self) -> None:
        one_of("backend", self.backend, tuple(WEIGHTS))
        if min(self.sigma_rgb, self.sigma_xy) <= 0 or not 0 < self.scale <= 1:
            raise ValueError("sigma_rgb and sigma_xy must be positive, scale in (0, 1]")
        at_crop_size(1, 1, (1, 1), self.size_rule)

    @batch_loss
    def __call__(
        self, features: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor, counts: Counts, *, images: Tensor
    ) -> Output:
        """Return the terms seg and crf; ``features`` and ``image_classes`` are not used, see `batch_loss`.

        All pixels but ``VOID`` take part in crf. ``images`` (B, 3, H, W) are RGB in [0, 1], not normalized.
        """
        seg = partial_cross_entropy(logits, labels, counts)
        weight = WEIGHTS[self.backend] if self.weight is None else self.weight
        weight, sigma_xy = at_crop_size(weight, self.sigma_xy, (labels.shape[1], labels.shape[2]), self.size_rule)
        crf = pairwise_energy(
            logits.softmax(1),
            (255 * images).round(),  # equal colors stay equal
            labels != VOID,
            sigma_rgb=self.sigma_rgb,
            sigma_xy=sigma_xy,
            scale=self.scale,
            backend=self.backend,
        )
        return Output(seg + weight * crf, {"seg": seg, "crf": crf})
