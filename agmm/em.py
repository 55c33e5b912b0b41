"""The mixture of AGMM++: class means and spreads from labels, re-estimated once from the mixture's own scores.

As in `agmm.gmm`, everything works on components. Equations are those of AGMM++ (TPAMI 2025), of which no code was
released: what its text leaves open is marked as ours. Features are already squeezed. Gradients flow through means,
distances and spreads ("we do not stop the gradient of the GMM module", Sec. 3.1), but not through memberships.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agmm import fast, gmm
from agmm.codes import EPS, VOID
from agmm.gmm import Components

Assignment = Literal["argmax", "responsibility", "soft"]
Distance = Literal["absolute", "signed", "rms"]


@dataclass(frozen=True)
class Estimator:
    """How the mixture is estimated from weights, in both of its estimations."""

    distance: Distance = "absolute"  # see `from_labels` and `distances`
    sigma: float | Literal["pooled"] | None = None
    """None: a spread per class (Eq. 2, Eq. 6). Pooled (ours): one per image, where the variance is the mean of the
    classes' variances, weighted by their members. A float: that one."""
    sigma_min: float = 0.1
    """Least estimated spread (ours): a class with a single labeled pixel has none to speak of, and the printed Eq. 4
    would divide by zero."""
    detach_sigma: bool = False  # whether spreads carry no gradient


@dataclass(frozen=True)
class Mixture:
    """One Gaussian per component, as estimated from the pixels that belong to it."""

    weights: Tensor  # (B, N, h w): weight of every feature cell in the component's mean; without gradient
    mass: Tensor  # (B, N): number of pixels or cells behind these weights; without gradient
    means: Tensor  # (B, N, C)
    d: Tensor  # (B, N, h, w): distance of every cell to the mean
    variance: Tensor  # (B, N): ``sigma^2``

    def scores(self, components: Components) -> Tensor:
        """Return ``G_i(x) = exp(-d_i(x)^2 / (2 sigma_i^2))`` (Eq. 4; Eq. 8 after the M step): (B, N, h, w)."""
        return self._exponent().exp() * components.filled[..., None, None]

    def log_scores(self, components: Components) -> Tensor:
        """Return logarithms of `scores`, finite where these are too small for a number; -inf in empty slots."""
        return self._exponent().masked_fill(~components.filled[..., None, None], -torch.inf)

    def _exponent(self) -> Tensor:
        return -self.d.square() / (2 * self.variance + EPS)[..., None, None]


def from_labels(features: Tensor, labels: Tensor, components: Components, how: Estimator) -> Mixture:
    """Estimate the mixture of the labeled pixels (Eq. 1 to 3).

    ::

        mu_i      = 1/|L_i| sum_{x in L_i} f(x)              Eq. 1, with L_i the labeled pixels of class i
        sigma_i^2 = 1/|L_i| sum_{x in L_i} d_i(x)^2          Eq. 2
        d_i(x)    = 1/C sum_c |f_c(x) - mu_i,c|              Eq. 3, printed without absolute values

    Sums are over labeled pixels at label resolution, as in AGMM, without forming the features there. Features are
    (B, C, h, w), labels (B, H, W) int64, and the components those of the labels.
    """
    weights = gmm.mean_weights(labels, components, features)
    return _estimate(features, weights, components.counts.to(weights.dtype), components, how)


def reestimate(features: Tensor, old: Mixture, members: Tensor, components: Components, how: Estimator) -> Mixture:
    """Do the M step: means and variances of each component's members (Eq. 5 to 7).

    ::

        mu_i      = sum_x m_i(x) f(x)     / sum_x m_i(x)     with m_i(x) the membership of x in component i
        sigma_i^2 = sum_x m_i(x) d_i(x)^2 / sum_x m_i(x)     with d_i(x) to the new mean

    A component without members keeps its old parameters (ours). Features are (B, C, h, w); the members (B, N, h, w) are
    the result of `assign`.
    """
    members = members.flatten(2)
    mass = members.sum(2)
    some = mass > EPS
    weights = torch.where(some[..., None], members / mass.clamp_min(EPS)[..., None], old.weights)
    # An old component counts in a pooled variance only where its image has no other.
    mass = torch.where(some.any(1, keepdim=True), mass, old.mass)
    return _estimate(features, weights, mass, components, how)


@torch.no_grad()
def assign(
    mixture: Mixture, labels: Tensor, components: Components, how: Assignment = "argmax", keep_labels: bool = False
) -> Tensor:
    """Do the E step: to what extent each feature cell belongs to each component.

    ::

        argmax           m_i(x) = 1 if G_i(x) is the largest score, else 0
        responsibility   m_i(x) = G_i(x) / sum_j G_j(x)                        EM with equal priors
        soft             m_i(x) = G_i(x)

    The paper sums over "x in G_i" and divides by its size, which leaves open how a pixel belongs to G_i. Ours is the
    first: it has no parameter and does not change if all distances do by a factor. With the last, means move towards
    that of the image, the more the less the scores of different classes differ.

    Parameters
    ----------
    mixture : Mixture
    labels : Tensor (B, H, W) int64
        A cell is what its middle pixel is; cells on ``VOID`` belong to nothing.
    components : Components
    how : {"argmax", "responsibility", "soft"}
    keep_labels : bool
        Labeled cells belong to their class whatever the scores.

    Returns
    -------
    Tensor (B, N, h, w)
        In [0, 1]; 0 in empty slots.
    """
    # Logarithms: far from all means the scores themselves are all 0.
    log_g, filled = mixture.log_scores(components), components.filled[..., None, None]
    g = log_g.exp()
    if how == "argmax":
        belongs = torch.zeros_like(g).scatter_(1, log_g.max(1, keepdim=True).indices, 1.0)
    elif how == "responsibility":
        belongs = g / (g.sum(1, keepdim=True) + EPS)
    else:
        belongs = g
    cells = labels_of_cells(labels, (g.shape[2], g.shape[3])).unsqueeze(1)
    if keep_labels:
        hit = (cells == components.classes[..., None, None]) & filled
        belongs = torch.where(hit.any(1, keepdim=True), hit.to(g.dtype), belongs)
    return belongs * (cells != VOID) * filled


def labels_of_cells(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label of the pixel nearest to the center of every feature cell: (B, h, w) int64."""
    # Exact up to 2^24, and labels are at most 255.
    return F.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest-exact").squeeze(1).long()


def distances(features: Tensor, means: Tensor, distance: Distance) -> Tensor:
    """Return other distances (B, N, M) of features (B, C, M) to means (B, N, C) than the absolute one (Eq. 3).

    ::

        signed   d_i(x) = 1/C sum_c (f_c(x) - mu_i,c)             as printed: only the channels' mean counts
        rms      d_i(x) = sqrt(1/C sum_c (f_c(x) - mu_i,c)^2)
    """
    if distance == "signed":
        return features.mean(1).unsqueeze(1) - means.mean(2).unsqueeze(2)
    square = (features.unsqueeze(1) - means.unsqueeze(3)).square().mean(2)
    # The root has infinite slope at 0, where a cell is its own mean.
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def _estimate(features: Tensor, weights: Tensor, mass: Tensor, components: Components, how: Estimator) -> Mixture:
    """Means, distances and variances from weights (B, N, h w) that add up to 1 in every component."""
    flat = features.flatten(2)
    if how.distance == "absolute":
        means, d = fast.means_and_differences(flat, weights, components.per_image)
    else:
        means = weights @ flat.transpose(1, 2)
        d = distances(flat, means, how.distance)
    d = d * components.filled[..., None]
    if isinstance(how.sigma, int | float):
        variance = torch.full_like(mass, how.sigma**2)
    else:
        variance = (weights * (d.detach() if how.detach_sigma else d).square()).sum(2)
        variance = (pool(variance, mass) if how.sigma == "pooled" else variance).clamp_min(how.sigma_min**2)
    return Mixture(weights, mass, means, d.unflatten(2, features.shape[-2:]), variance)


def pool(variance: Tensor, mass: Tensor) -> Tensor:
    """Return the mean variance of each image, weighted by members, for all of its components (ours): (B, N)."""
    share = mass / mass.sum(1, keepdim=True).clamp_min(EPS)
    return (share * variance).sum(1, keepdim=True).expand_as(mass)
