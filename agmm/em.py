"""The mixture of AGMM++: class means and spreads from labels, re-estimated once from the mixture's own scores.

As in `agmm.gmm`, everything works on components. Equations are those of AGMM++ (TPAMI 2025), of which no code was
released: what its text leaves open is marked as ours. Features are already squeezed.
"""

from dataclasses import dataclass, replace
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
class Mixture:
    """One Gaussian per component, as estimated from the pixels that belong to it.

    Attributes
    ----------
    weights : Tensor (B, N, h w)
        Of every feature cell in the component's mean; without gradient.
    means : Tensor (B, N, C)
    d : Tensor (B, N, h, w)
        Distance of every cell to the mean.
    variance : Tensor (B, N)
        ``sigma^2``; without gradient.
    """

    weights: Tensor
    means: Tensor
    d: Tensor
    variance: Tensor

    def scores(self, components: Components) -> Tensor:
        """``G = exp(-d^2 / (2 sigma^2))`` on the feature grid, 0 in empty slots (Eq. 4, Eq. 8): (B, N, h, w)."""
        return gmm.bells(self.d, self.variance.sqrt(), components)

    def log_scores(self, components: Components) -> Tensor:
        """Their logarithms, finite where scores are too small for their number type; -inf in empty slots."""
        exponent = -self.d.square() / (2 * self.variance + EPS)[..., None, None]
        return exponent.masked_fill(~components.filled[..., None, None], -torch.inf)


def from_labels(
    features: Tensor, labels: Tensor, components: Components, sigma_min: float, distance: Distance = "absolute"
) -> Mixture:
    """The mixture of the labeled pixels (Eq. 1 to 3).

    Means and variances are taken over labeled pixels at label resolution, as in AGMM, without forming the features
    there. A class with a single labeled pixel has no spread to speak of, and the printed Eq. 4 would divide by zero:
    ``sigma`` is at least ``sigma_min`` (ours).

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    labels : Tensor (B, H, W) int64
    components : Components
        Of the labels.
    sigma_min : float
    distance : {"absolute", "signed", "rms"}
        Mean of ``|f - mu|`` over channels, as in AGMM's released code, or see `distances`.
    """
    weights = gmm.mean_weights(labels, components, features)
    return _estimate(features, weights, components, sigma_min, distance)


def reestimate(
    features: Tensor, old: Mixture, members: Tensor, components: Components, sigma_min: float, distance: Distance
) -> Mixture:
    """The M step: means and variances of each component's members (Eq. 6, 7).

    A component without members keeps its old parameters.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    old : Mixture
    members : Tensor (B, N, h, w)
        From `assign`.
    components : Components
    sigma_min : float
    distance : {"absolute", "signed", "rms"}
    """
    members = members.flatten(2)
    mass = members.sum(2, keepdim=True)
    empty = mass <= EPS
    weights = torch.where(empty, old.weights, members / mass.clamp_min(EPS))
    new = _estimate(features, weights, components, sigma_min, distance)
    return replace(new, variance=torch.where(empty.squeeze(2), old.variance, new.variance))


@torch.no_grad()
def assign(
    log_g: Tensor, labels: Tensor, components: Components, assignment: Assignment = "argmax", keep_labels: bool = True
) -> Tensor:
    """The E step: to what extent each feature cell belongs to each component (Eq. 5 leaves open how).

    Parameters
    ----------
    log_g : Tensor (B, N, h, w)
        Logarithms of the scores: far from all means the scores themselves are all 0.
    labels : Tensor (B, H, W) int64
        A cell is what its middle pixel is; cells on ``VOID`` belong to nothing.
    components : Components
    assignment : {"argmax", "responsibility", "soft"}
        The component of the largest score; scores over their sum, as in EM with equal priors; the scores themselves.
        The last is degenerate: scores of different classes differ little, so all means move towards the mean of the
        image. Ours is the first, as the print sums over "x in G_i" and divides by its size: it has no parameter and
        does not change if all distances do by a factor.
    keep_labels : bool
        Labeled cells belong to their class whatever the scores. For labels that are accurate (points, scribbles,
        blocks), not for pseudo labels.

    Returns
    -------
    Tensor (B, N, h, w)
        In [0, 1]; 0 in empty slots.
    """
    filled, g = components.filled[..., None, None], log_g.exp()
    if assignment == "argmax":
        belongs = torch.zeros_like(g).scatter_(1, log_g.max(1, keepdim=True).indices, 1.0)
    elif assignment == "responsibility":
        belongs = g / (g.sum(1, keepdim=True) + EPS)
    else:
        belongs = g
    cells = labels_of_cells(labels, (g.shape[2], g.shape[3])).unsqueeze(1)
    hit = (cells == components.classes[..., None, None]) & filled
    if keep_labels:
        belongs = torch.where(hit.any(1, keepdim=True), hit.to(g.dtype), belongs)
    return belongs * (cells != VOID) * filled


def labels_of_cells(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label of the pixel nearest to the center of every feature cell: (B, h, w) int64."""
    # Exact up to 2^24, and labels are at most 255.
    return F.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest-exact").squeeze(1).long()


def distances(features: Tensor, means: Tensor, distance: Distance) -> Tensor:
    """Distance of every cell to every mean (Eq. 3), other than the absolute one of `agmm.fast`.

    Parameters
    ----------
    features : Tensor (B, C, M)
    means : Tensor (B, N, C)
    distance : {"signed", "rms"}
        Over channels: mean of ``f - mu`` as printed, in which deviations cancel, so that only the channels' mean
        counts; root of the mean square.

    Returns
    -------
    Tensor (B, N, M)
    """
    if distance == "signed":
        return features.mean(1).unsqueeze(1) - means.mean(2).unsqueeze(2)
    square = (features.unsqueeze(1) - means.unsqueeze(3)).square().mean(2)
    # The root has infinite slope at 0, where a cell is its own mean.
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def _estimate(
    features: Tensor, weights: Tensor, components: Components, sigma_min: float, distance: Distance
) -> Mixture:
    """Means, distances and variances from weights (B, N, h w) that add up to 1 in every component."""
    flat = features.flatten(2)
    if distance == "absolute":
        means, d = fast.means_and_differences(flat, weights, components.per_image)
    else:
        means = weights @ flat.transpose(1, 2)
        d = distances(flat, means, distance)
    d = d * components.filled[..., None]
    variance = (weights * d.detach().square()).sum(2).clamp_min(sigma_min**2)
    return Mixture(weights, means, d.unflatten(2, features.shape[-2:]), variance)
