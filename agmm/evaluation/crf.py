"""Fully connected CRF with Gaussian kernels: products with the kernels, and mean-field post-processing.

P. Krähenbühl, V. Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.
Maps are multiplied with a matrix of Gaussian similarities of all pairs of pixels by one of two backends. ``"exact"``
sums all pairs. ``"lattice"`` takes time linear in the number of pixels (see `agmm.evaluation.lattice`); like the
usual wrapper's filter it returns about 0.53 of the exact sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from agmm.evaluation import lattice

Backend = Literal["lattice", "exact"]
Filter = Callable[[Tensor], Tensor]  # values (B, n, K) -> ``W values`` (B, n, K), each image with its n x n matrix W

# Kernel values held at a time: a processor's second-level cache, or a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 28}


def pixel_features(images: Tensor, sigma_xy: float, sigma_rgb: float | None = None) -> Tensor:
    """Return features f whose Gaussian of unit standard deviation is the CRF's kernel (Krähenbühl & Koltun, Eq. 3).

    (B, H W, 5) float64: x and y over ``sigma_xy`` in pixels, and the colors of images (B, 3, H, W) in 0 … 255 over
    ``sigma_rgb`` in gray levels, without which the kernel is the spatial one, of (B, H W, 2).
    """
    batch, _, height, width = images.shape
    y, x = (torch.arange(side, dtype=torch.float64, device=images.device) for side in (height, width))
    position = torch.cartesian_prod(y, x).flip(1).expand(batch, -1, -1) / sigma_xy
    if sigma_rgb is None:
        return position
    return torch.cat([position, images.double().flatten(2).transpose(1, 2) / sigma_rgb], 2)


def gaussian_filter(features: Tensor, backend: Backend = "lattice") -> Filter:
    """Return the product with ``W_ij = exp(-|f_i - f_j|^2 / 2)`` of features (B, n, d), unnormalized, W_ii = 1."""
    if backend == "lattice":
        return partial(lattice.apply, lattice.build(features))
    if backend == "exact":
        return partial(exact_filter, features)
    raise ValueError(f"backend is {backend!r}; known: lattice, exact")


def exact_filter(features: Tensor, values: Tensor) -> Tensor:
    """Sum values (B, n, K) over all pairs of pixels with features (B, n, d), in the precision of ``values``."""
    features, out = features.to(values), torch.empty_like(values)
    rows = max(1, BLOCK.get(values.device.type, BLOCK["cuda"]) // max(1, features.shape[1]))
    for all_features, all_values, result in zip(features, values, out, strict=True):
        for part, target in zip(all_features.split(rows), result.split(rows), strict=True):
            distance = torch.cdist(part, all_features, compute_mode="donot_use_mm_for_euclid_dist")
            torch.mm(distance.square_().mul_(-0.5).exp_(), all_values, out=target)
    return out


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
    "deeplab_64": Parameters(10, 3, 1 * 64 / 500, 4, 67 * 64 / 500, 3),
    "toco_64": Parameters(10, 1, 1 * 64 / 500, 4, 121 * 64 / 500, 5),
}
"""Parameters in use, by the method that uses them.

Spatial sigmas are pixels of VOC's images. For embedded ones of 64 x 64 (``"deeplab_64"``) they are scaled by 64/500,
color sigmas are not. Nothing was chosen by its effect there: objects of nearly uniform color make any CRF look good."""


def mean_field(probabilities: Tensor, images: Tensor, parameters: Parameters, backend: Backend = "lattice") -> Tensor:
    """Refine probabilities (B, K, H, W) by mean field (Krähenbühl & Koltun, Algorithm 1) with the Potts model.

    ``Q = softmax(-U)``, then repeatedly ``Q = softmax(-U + sum_m w_m k_m Q)`` for all pixels in parallel, with ``U =
    -log p``, where p is at least 1e-5. The kernels k, of images (B, 3, H, W) with RGB in 0 … 255, are normalized
    symmetrically, which the paper does not say and the usual wrapper does, and include the pixel itself. The lattice's
    loss of mass cancels in the normalization. Parameters are, for example, ``PARAMETERS["deeplab"]``. Without gradient.
    """
    precision = torch.promote_types(probabilities.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(probabilities.device.type, enabled=False):
        log_p = probabilities.to(precision).clamp(1e-5, 1).log().flatten(2).transpose(1, 2).contiguous()
        features = (
            pixel_features(images, parameters.sigma_spatial),
            pixel_features(images, parameters.sigma_xy, parameters.sigma_rgb),
        )
        filters = [gaussian_filter(f, backend) for f in features]
        roots = [(kernel(torch.ones_like(log_p[..., :1])) + 1e-20).rsqrt() for kernel in filters]
        weights = parameters.w_spatial, parameters.w_bilateral
        q = log_p.softmax(2)
        for _ in range(parameters.iterations):
            energy = log_p
            for kernel, root, weight in zip(filters, roots, weights, strict=True):
                energy = torch.addcmul(energy, root, kernel(root * q), value=weight)  # no maps in between
            q = energy.softmax(2)
        return q.transpose(1, 2).reshape(probabilities.shape)
