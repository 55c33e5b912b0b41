"""The Gaussian mixture of a batch: class means, distances, spreads and scores.

Every class with at least one labeled pixel in a crop gives one Gaussian, centered at the mean feature of its labeled
pixels. Most classes are absent from most crops, so all functions work on *components*: the present classes of each
image, packed into N slots, where N is the largest number of present classes of any image. An example with two images
and K = 7 classes, the first with labels of classes 0, 3 and 5, the second of class 2 alone::

                slot 0     slot 1     slot 2
    image 0     class 0    class 3    class 5     per_image[0] = 3
    image 1     class 2    (empty)    (empty)     per_image[1] = 1

Distances, say, are then of shape (B, N, h, w): ``d[0, 1]`` are those to the mean of class 3 in image 0, ``d[1, 1]`` is
an empty slot and 0. `Components.to_classes` spreads the slots over all classes, (B, K, h, w).

Shapes: B batch, K classes, C feature channels, (h, w) feature grid, (H, W) label grid, N component slots.
Symbols: f features, P softmax of the segmentation; mu_i, d_i, sigma_i and G_i mean, distance, spread and score of
component i; x is a pixel, L are the labeled pixels, U the unlabeled ones.
Section and equation numbers refer to "Sparsely Annotated Semantic Segmentation with Adaptive Gaussian Mixtures"
(CVPR 2023); "official code" is the authors' release.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import fast
from agmm.codes import EPS, UNLABELED, VOID

NO_MASS = 1e-3
"""Sum of the weights in Eq. 5 below which there is nothing to estimate a spread from."""

Sigma = float | Literal["adaptive", "code_a", "code_b"] | None


@dataclass(frozen=True)
class Components:
    """The present classes of a batch, one slot each; see the picture at the top of `agmm.gmm`."""

    classes: Tensor
    """(B, N) int64: class code of each slot, ascending within an image; arbitrary but distinct codes in empty slots."""
    filled: Tensor  # (B, N) bool: false for the empty slots of images with fewer than N present classes
    counts: Tensor  # (B, N) int64: labeled pixels of each slot's class in the crop; 0 in empty slots
    per_image: tuple[int, ...]  # number of present classes of each of the B images
    num_classes: int  # K

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return classes, filled and counts."""
        return self.classes, self.filled, self.counts

    @property
    def present(self) -> Tensor:
        """Whether a class has a component: (B, K) bool."""
        return self.to_classes(self.filled)

    def to_classes(self, slots: Tensor) -> Tensor:
        """Spread (B, N, …) slot values over the class axis: (B, K, …), zero for absent classes."""
        trailing = slots.shape[2:]
        keep = self.filled.reshape(*self.filled.shape, *(1,) * len(trailing))
        index = self.classes.reshape(keep.shape).expand(-1, -1, *trailing)
        spread = slots.new_zeros(slots.shape[0], self.num_classes, *trailing)
        return spread.scatter(1, index, slots * keep if slots.dtype != torch.bool else slots & keep)

    def from_classes(self, values: Tensor) -> Tensor:
        """Take the slots' classes from (B, K, …): (B, N, …)."""
        trailing = values.shape[2:]
        index = self.classes.reshape(*self.classes.shape, *(1,) * len(trailing)).expand(-1, -1, *trailing)
        return values.gather(1, index)


def components(labels: Tensor, num_classes: int) -> Components:
    """Find which of K classes have a labeled pixel in each crop of labels (B, H, W) int64 (codes: `agmm.codes`)."""
    return components_of(fast.census(labels, num_classes))


def components_of(pixels: Tensor) -> Components:
    """`components` from the pixels (B, K + 3) of each code, see `agmm.fast.census`."""
    counts = pixels[:, :-3]
    present = counts > 0
    per_image = tuple(present.sum(1).tolist())
    slots = max(per_image, default=0) or 1
    # A stable sort on "absent" puts present classes first, in ascending order of their codes.
    classes = (~present).to(torch.uint8).sort(dim=1, stable=True).indices[:, :slots]
    counts = counts.gather(1, classes)
    return Components(classes, counts > 0, counts, per_image, present.shape[1])


def no_components(labels: Tensor, num_classes: int) -> Components:
    """Components without any slot, for an objective that forms no mixture."""
    none = labels.new_zeros(len(labels), 0)
    return Components(none, none.bool(), none, (0,) * len(labels), num_classes)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of the labeled pixels of every class and image (Eq. 4).

    ::

        mu_i = 1/|L_i| sum_{x in L_i} f(x)         with L_i the labeled pixels of class i

    Features are compared with labels at label resolution (bilinear, ``align_corners=False``), as in the official code.
    The upsampled features are never formed: their weighted sum equals a sum over the feature grid with the weights of
    the adjoint interpolation. Of features (B, C, h, w) and labels (B, H, W) int64 return means (B, K, C), zero for
    absent classes, and which classes are present (B, K) bool.
    """
    found = components(labels, num_classes)
    return found.to_classes(component_means(features, labels, found)), found.present


def component_means(features: Tensor, labels: Tensor, components: Components) -> Tensor:
    """`class_means` of the present classes only: (B, N, C), zero in empty slots."""
    return mean_weights(labels, components, features) @ features.flatten(2).transpose(1, 2)


def mean_weights(labels: Tensor, components: Components, features: Tensor) -> Tensor:
    """Weight of every feature cell in the class means, the adjoint of upsampling the features: (B, N, h w)."""
    share = components.filled / (components.counts.to(torch.promote_types(features.dtype, torch.float32)) + EPS)
    return fast.mean_weights(labels, components.classes, share, features.shape[-2:])


def distances(features: Tensor, means: Tensor, components: Components) -> Tensor:
    """Return the distance of every feature cell to every mean (Eq. 6), a number as in the official code.

    ::

        d_i(x) = 1/C sum_c |f_c(x) - mu_i,c|       printed as the vector f(x) - mu_i

    Of features (B, C, h, w) and means (B, N, C) they are (B, N, h, w), 0 in empty slots.
    """
    d = fast.mean_absolute_difference(features.flatten(2), means, components.per_image)
    return d.unflatten(2, features.shape[-2:]) * components.filled[..., None, None]


def means_and_distances(features: Tensor, labels: Tensor, components: Components) -> tuple[Tensor, Tensor]:
    """`component_means` and `distances` to them, at the cost of one."""
    weights = mean_weights(labels, components, features)
    means, d = fast.means_and_differences(features.flatten(2), weights, components.per_image)
    return means, d.unflatten(2, features.shape[-2:]) * components.filled[..., None, None]


def validity(labels: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Share of each feature cell that is not ``VOID``: (B, 1, h, w), fractional at the padding border."""
    return _resize((labels != VOID).unsqueeze(1).to(dtype), size)


def spread(
    d: Tensor, logits: Tensor, labels: Tensor, image_classes: Tensor, components: Components, sigma: str
) -> Tensor:
    """Return the standard deviation of each component (Eq. 5, and what the official code has instead).

    ::

        adaptive   sigma_i^2 = sum_{x in U} P_i(x) d_i(x)^2 / sum_{x in U} P_i(x)                    Eq. 5
        code_a     the same sums over all valid pixels
        code_b     sigma_i^2 = sum_x d_i(x)^2 / (number of valid pixels)

    U are the *unlabeled* pixels; P counts as 0 for classes annotated nowhere in the image. Where the weights of Eq. 5
    vanish, its sigma is 1. The official code uses none of these: ``code_a`` and ``code_b`` are commented out there.

    Parameters
    ----------
    d : Tensor (B, N, h, w)
    logits : Tensor (B, K, H, W)
    labels : Tensor (B, H, W) int64
    image_classes : Tensor (B, K) bool
    components : Components
    sigma : {"adaptive", "code_a", "code_b"}

    Returns
    -------
    Tensor (B, N)
        0 in empty slots.
    """
    size = d.shape[-2:]
    if sigma == "code_b":
        valid = validity(labels, size, d.dtype).sum((2, 3))
        variance = (d.square().sum((2, 3)) / valid.clamp_min(EPS) + EPS) * (valid > 0)
    else:
        if sigma == "adaptive":
            weight = unlabeled_weights(logits, labels, image_classes, components, size)
        else:
            weight = _probabilities(logits, image_classes, components, size) * validity(labels, size, d.dtype)
        mass = weight.sum((2, 3))
        variance = (weight * d.square()).sum((2, 3)) / (mass + EPS)
        if sigma == "adaptive":
            variance = torch.where(mass < NO_MASS, 1.0, variance)
    # The root has infinite slope at 0: empty slots and single-point components must not reach it.
    safe = components.filled & (variance > 0)
    return torch.where(safe, variance, 1.0).sqrt() * safe


def unlabeled_weights(
    logits: Tensor, labels: Tensor, image_classes: Tensor, components: Components, size: tuple[int, ...]
) -> Tensor:
    """Weights in Eq. 5 on a grid of ``size``: P of each component's class, at unlabeled pixels: (B, N, h, w)."""
    unlabeled = (labels == UNLABELED).unsqueeze(1).to(logits.dtype)
    return _probabilities(logits, image_classes, components, size) * _resize(unlabeled, size)


def scores(d: Tensor, sigma: Tensor | float | None, size: tuple[int, ...], components: Components) -> Tensor:
    """Return the mixture scores: one Gaussian bell per component, upsampled to the label grid (Eq. 7).

    ::

        G_i(x) = exp(-d_i(x)^2 / (2 sigma_i^2))    printed as a sum over i: read as the collection of all i

    Parameters
    ----------
    d : Tensor (B, N, h, w)
    sigma : Tensor (B, N), float or None
        None is the official ``exp(-d^2)``; a float is used as it is; with a tensor (estimated) 1e-6 is added to
        ``2 sigma^2`` as in the official code.
    size : (H, W)
    components : Components

    Returns
    -------
    Tensor (B, N, H, W)
        In [0, 1]; exactly 0 in empty slots.
    """
    return fast.upsample(bells(d, sigma, components), size, components.per_image)


def bells(d: Tensor, sigma: Tensor | float | None, components: Components) -> Tensor:
    """`scores` on the feature grid: (B, N, h, w)."""
    if sigma is None:
        exponent = -d.square()
    elif isinstance(sigma, Tensor):
        exponent = -d.square() / (2 * sigma.square() + EPS)[..., None, None]
    else:
        exponent = -d.square() / (2 * sigma**2)
    return exponent.exp() * components.filled[..., None, None]


def _probabilities(logits: Tensor, image_classes: Tensor, components: Components, size: tuple[int, ...]) -> Tensor:
    """P of the components' classes on a grid of ``size``, 0 for those annotated nowhere in the image: (B, N, h, w).

    The same as `_resize` of P, which reads four pixels of every cell: P is formed of these alone.
    """
    rows, columns = (_taps(fine, coarse, logits) for fine, coarse in zip(logits.shape[2:], size, strict=True))
    pixels = (rows.pixels[:, None] * logits.shape[3] + columns.pixels).flatten()
    p = logits.movedim(1, -1).flatten(1, 2).index_select(1, pixels).softmax(-1).movedim(-1, 1)
    p = components.from_classes(p) * components.from_classes(image_classes).unsqueeze(2)
    p = p.unflatten(2, (2, size[0], 2, size[1]))
    p = torch.lerp(p[:, :, :, :, 0], p[:, :, :, :, 1], columns.second)
    return torch.lerp(p[:, :, 0], p[:, :, 1], rows.second[:, None])


class _Taps(NamedTuple):
    """What bilinear interpolation reads along one side."""

    pixels: Tensor  # (2 n,): first pixels of all n cells, then second ones
    second: Tensor  # (n,): weights of the second ones


def _taps(fine: int, coarse: int, like: Tensor) -> _Taps:
    """Return what each of ``coarse`` cells reads of ``fine`` pixels (``align_corners=False``)."""
    centers = torch.arange(coarse, device=like.device, dtype=like.dtype) + 0.5
    source = (centers * (fine / coarse) - 0.5).clamp_min(0)
    first = source.long().clamp_max(fine - 1)
    return _Taps(torch.cat([first, (first + 1).clamp_max(fine - 1)]), source - first)


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
