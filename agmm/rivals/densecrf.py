"""Fully connected CRF with Gaussian kernels: the regularized loss (DenseCRF loss) and mean-field post-processing.

P. Krähenbühl, V. Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.
M. Tang et al., "On regularized losses for weakly-supervised CNN segmentation", ECCV 2018; official code: rloss.

Both multiply maps with a matrix of Gaussian similarities of all pairs of pixels, by one of two backends. ``"exact"``
sums all pairs. ``"lattice"`` takes time linear in the number of pixels (see `agmm.rivals.permutohedral`); like the
official code's filter it returns about 0.53 of the exact sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from agmm import losses
from agmm.labels import VOID
from agmm.objectives import Baseline, Output, full_precision
from agmm.rivals import permutohedral

Backend = Literal["lattice", "exact"]
SizeRule = Literal["as_given", "fixed_sigma", "scaled_sigma"]
Filter = Callable[[Tensor], Tensor]
"""values (B, n, K) -> ``W values`` (B, n, K), every image with its own n x n matrix W"""

# Kernel values held at a time: a processor's second-level cache, or a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 28}
WEIGHTS = {"lattice": 2.4e-8, "exact": 1.3e-8}
"""Weight of the loss beside a mean cross-entropy, at 513 x 513 and scale 0.5. The official code's 2e-9 times its batch
size of 12, as it divides the mean cross-entropy by the batch size again; less for the exact kernel, whose sums are
larger."""
REFERENCE_SIDE = 513


def pixel_features(images: Tensor, sigma_xy: float, sigma_rgb: float | None = None) -> Tensor:
    """Features whose Gaussian of unit standard deviation is the CRF's kernel (Krähenbühl & Koltun, Eq. 3).

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        RGB in 0 … 255.
    sigma_xy : float
        In pixels.
    sigma_rgb : float, optional
        In gray levels; without it the kernel is the spatial one.

    Returns
    -------
    Tensor (B, H W, 5 or 2) float64
        x, y and the color channels, each over its sigma.
    """
    batch, _, height, width = images.shape
    y, x = (torch.arange(side, dtype=torch.float64, device=images.device) for side in (height, width))
    position = torch.cartesian_prod(y, x).flip(1).expand(batch, -1, -1) / sigma_xy
    if sigma_rgb is None:
        return position
    return torch.cat([position, images.double().flatten(2).transpose(1, 2) / sigma_rgb], 2)


def gaussian_filter(features: Tensor, backend: Backend = "lattice") -> Filter:
    """Multiplication with ``W_ij = exp(-|f_i - f_j|^2 / 2)``, self pairs included, not normalized.

    Parameters
    ----------
    features : Tensor (B, n, d)
        From `pixel_features`.
    backend : {"lattice", "exact"}
    """
    if backend == "lattice":
        return partial(permutohedral.apply, permutohedral.build(features))
    if backend == "exact":
        return partial(exact_filter, features)
    raise ValueError(f"backend is {backend!r}; known: lattice, exact")


def exact_filter(features: Tensor, values: Tensor, block: int | None = None) -> Tensor:
    """Sum over all pairs of pixels, in the precision of ``values``.

    Parameters
    ----------
    features : Tensor (B, n, d)
    values : Tensor (B, n, K)
    block : int, optional
        Kernel values held at a time, at least one row of n; the default depends on the device (`BLOCK`).

    Returns
    -------
    Tensor (B, n, K)
    """
    features, out = features.to(values), torch.empty_like(values)
    rows = max(1, (block or BLOCK.get(values.device.type, BLOCK["cuda"])) // max(1, features.shape[1]))
    for all_features, all_values, result in zip(features, values, out, strict=True):
        for part, target in zip(all_features.split(rows), result.split(rows), strict=True):
            distance = torch.cdist(part, all_features, compute_mode="donot_use_mm_for_euclid_dist")
            torch.mm(distance.square_().mul_(-0.5).exp_(), all_values, out=target)
    return out


def densecrf_loss(
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
    """``-sum_k S_k' W S_k``, averaged over images, not weighted (Tang et al. 2018, as in the official code).

    The paper's ``sum_k S_k' W (1 - S_k)``, the Potts energy of the CRF relaxed to probabilities, differs from it by
    ``sum_ij W_ij``, which depends on the image alone. As in the official code, all maps are first reduced by ``scale``,
    images and region by nearest neighbor, probabilities bilinearly; the region masks the probabilities before the
    filter and the gradient after it; and the gradient is ``-2 W S``, of which the lattice's is only close to the
    derivative, as its W is not quite symmetric.

    Parameters
    ----------
    probabilities : Tensor (B, K, H, W)
        Softmax of the segmentation.
    images : Tensor (B, 3, H, W)
        RGB in 0 … 255.
    region : Tensor (B, H, W) bool
        Pixels that take part: the image, not its padding.
    sigma_rgb : float
        In gray levels.
    sigma_xy : float
        In pixels of the unreduced image.
    scale : float
        At most 1.
    backend : {"lattice", "exact"}
    unlabeled : Tensor (B, H, W) bool, optional
        Gate of the energy (ToCo, AFA): 1 at these pixels, elsewhere what the segmentation lacks of certainty,
        ``1 - max_k S_k``; it is taken as constant.

    Returns
    -------
    Tensor ()
        A sum over pairs of pixels, hence large, see `at_crop_size`. 0, with a graph, if the region is empty.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        segmentation, mask = full_precision(probabilities), region.unsqueeze(1)
        if scale != 1:
            images, mask = (F.interpolate(maps.float(), scale_factor=scale, mode="nearest") for maps in (images, mask))
            segmentation = F.interpolate(segmentation, scale_factor=scale, mode="bilinear", align_corners=False)
        gate = _gate(segmentation.detach(), unlabeled) if unlabeled is not None else None
        segmentation = (segmentation * mask.to(segmentation)).flatten(2).transpose(1, 2)
        kernel = gaussian_filter(pixel_features(images, scale * sigma_xy, sigma_rgb), backend)
        return _PairwiseEnergy.apply(segmentation, kernel, gate) / len(probabilities)


def _gate(segmentation: Tensor, unlabeled: Tensor) -> Tensor:
    """Gate (B, n, 1) of reduced probabilities (B, K, h, w)."""
    missing = F.interpolate(unlabeled[:, None].to(segmentation), size=segmentation.shape[2:], mode="nearest") > 0
    gate = torch.where(missing, 1, 1 - segmentation.amax(1, keepdim=True))
    return gate.flatten(2).transpose(1, 2)


class _PairwiseEnergy(torch.autograd.Function):
    """``-sum_k S_k' W S_k`` of S (B, n, K), with the gradient ``-2 W S`` from the product that the value needs.

    A gate (B, n, 1) is a factor on ``W S`` in both.
    """

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
    """Weight and spatial sigma of the loss for crops of another size than 513 x 513 (our choice, in no paper).

    The loss is a sum over pairs of pixels: it grows with the crop's area where sigma stays the same, and with the
    square of the area where sigma grows with the crop.

    Parameters
    ----------
    weight, sigma_xy : float
        For crops of 513 x 513.
    size : (int, int)
        Height and width of the crop before it is reduced.
    rule : {"as_given", "fixed_sigma", "scaled_sigma"}
        Change nothing; the weight alone; both, which suits crops that are not much larger than sigma.
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
class DenseCRFLoss:
    """Partial cross-entropy and the DenseCRF loss, trained together from the start (Tang et al. 2018).

    Parameters
    ----------
    num_classes : int
    weight : float, optional
        Of the DenseCRF loss; default: the backend's of `WEIGHTS`.
    sigma_rgb, sigma_xy, scale, backend
        See `densecrf_loss`. Another scale than 0.5 needs another weight.
    size_rule : {"fixed_sigma", "scaled_sigma", "as_given"}
        How the weight follows the crop, see `at_crop_size`.
    """

    needs: ClassVar = ("images",)

    num_classes: int
    weight: float | None = None
    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    scale: float = 0.5
    size_rule: SizeRule = "fixed_sigma"
    backend: Backend = "lattice"

    def __post_init__(self) -> None:
        if self.backend not in WEIGHTS:
            raise ValueError(f"backend is {self.backend!r}; known: {', '.join(WEIGHTS)}")
        if min(self.sigma_rgb, self.sigma_xy) <= 0 or not 0 < self.scale <= 1:
            raise ValueError("sigma_rgb and sigma_xy must be positive, scale in (0, 1]")
        at_crop_size(1, 1, (1, 1), self.size_rule)

    def __call__(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts | None = None,
        *,
        images: Tensor,
    ) -> Output:
        """Loss of a batch; the terms are seg and crf.

        Parameters
        ----------
        features, image_classes
            Not used.
        logits, labels, counts
            See `agmm.objectives.AGMM`. All pixels but ``VOID`` take part in crf, labeled or not.
        images : Tensor (B, 3, H, W)
            The crops that the network saw, RGB in [0, 1], not normalized.
        """
        seg = Baseline(self.num_classes)(features, logits, labels, image_classes, counts).loss
        size = (labels.shape[1], labels.shape[2])
        weight = WEIGHTS[self.backend] if self.weight is None else self.weight
        weight, sigma_xy = at_crop_size(weight, self.sigma_xy, size, self.size_rule)
        crf = densecrf_loss(
            full_precision(logits).softmax(1),
            (255 * images).round(),  # equal colors stay equal
            labels != VOID,
            sigma_rgb=self.sigma_rgb,
            sigma_xy=sigma_xy,
            scale=self.scale,
            backend=self.backend,
        )
        return Output(seg + weight * crf, {"seg": seg, "crf": crf})


@dataclass(frozen=True)
class Parameters:
    """Parameters of `mean_field`: weights w, spatial sigmas in pixels, color sigma in gray levels."""

    iterations: int
    w_spatial: float
    sigma_spatial: float
    w_bilateral: float
    sigma_xy: float
    sigma_rgb: float


PARAMETERS = {
    "deeplab": Parameters(10, 3, 1, 4, 67, 3),  # DeepLab-v2 on VOC; SPML, for labels and at test time
    "toco": Parameters(10, 1, 1, 4, 121, 5),  # ToCo and AFA, segmentation maps at test time
    "toco_cam": Parameters(10, 3, 3, 4, 36, 3),  # ToCo, class activation maps
    "cam": Parameters(10, 3, 3, 10, 80, 13),  # SEAM and PSA, class activation maps
    "cam_label": Parameters(10, 3, 3, 10, 50, 5),  # IRN, hard labels of class activation maps
    "library": Parameters(5, 3, 3, 10, 80, 13),  # example of the usual Python wrapper
}
"""Parameters in use, by the method that uses them."""


def mean_field(probabilities: Tensor, images: Tensor, parameters: Parameters, backend: Backend = "lattice") -> Tensor:
    """Refine probabilities by mean-field inference (Krähenbühl & Koltun, Algorithm 1) with the Potts model.

    ``Q = softmax(-U)``, then repeatedly ``Q = softmax(-U + sum_m w_m k_m Q)`` for all pixels in parallel, with
    ``U = -log p``. The kernels k are normalized symmetrically, which the paper does not say and the usual wrapper does,
    and include the pixel itself. The lattice's loss of mass cancels in the normalization.

    Parameters
    ----------
    probabilities : Tensor (B, K, H, W)
        At the image's size; below 1e-5 they count as 1e-5.
    images : Tensor (B, 3, H, W)
        RGB in 0 … 255.
    parameters : Parameters
        For example ``PARAMETERS["deeplab"]``.
    backend : {"lattice", "exact"}
        Of the kernels.

    Returns
    -------
    Tensor (B, K, H, W)
        Q; without gradient.
    """
    with torch.no_grad(), torch.autocast(probabilities.device.type, enabled=False):
        log_p = full_precision(probabilities).clamp(1e-5, 1).log().flatten(2).transpose(1, 2)
        features = (
            pixel_features(images, parameters.sigma_spatial),
            pixel_features(images, parameters.sigma_xy, parameters.sigma_rgb),
        )
        kernels = [_normalized(gaussian_filter(f, backend), log_p[..., :1]) for f in features]
        q = log_p.softmax(2)
        for _ in range(parameters.iterations):
            spatial, bilateral = (kernel(q) for kernel in kernels)
            q = (log_p + parameters.w_spatial * spatial + parameters.w_bilateral * bilateral).softmax(2)
        return q.transpose(1, 2).reshape(probabilities.shape)


def label_probabilities(labels: Tensor, num_classes: int, confidence: float = 0.7) -> Tensor:
    """Input of `mean_field` from hard labels, as from class activation maps.

    Parameters
    ----------
    labels : Tensor (B, H, W) int64
    num_classes : int
        K.
    confidence : float
        Probability of the labeled class; the others share the rest. Uniform where the label is no class.

    Returns
    -------
    Tensor (B, K, H, W) float32
    """
    hit = labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)[:, None, None]
    labeled = hit.any(1, keepdim=True)
    rest = torch.where(labeled, (1 - confidence) / max(num_classes - 1, 1), 1 / num_classes)
    return torch.where(hit, confidence, rest)


def _normalized(kernel: Filter, like: Tensor) -> Filter:
    """``k_ij / sqrt(N_i N_j)`` with ``N_i = sum_j k_ij``; ``like`` is any (B, n, 1) tensor."""
    root = (kernel(torch.ones_like(like)) + 1e-20).rsqrt()
    return lambda values: root * kernel(root * values)
