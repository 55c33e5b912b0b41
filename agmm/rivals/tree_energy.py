"""The tree energy loss (TEL: Liang et al., "Tree Energy Loss", CVPR 2022), a rival of AGMM.

Predictions are averaged along minimum spanning trees of the pixel grid, first one of the colors I, then one of a
learned embedding E. The smoothed predictions Y are soft pseudo labels for the unlabeled pixels U:

    cost(i, j) = |g_i - g_j|^2                             of neighbors, g the colors or the embedding
    S_ij       = prod exp(-cost / sigma)                   over the edges of the tree's path from i to j
    (F_g x)_i  = sum_j S_ij x_j / sum_j S_ij
    Y          = F_E F_I P                                 sigma = 1 for the embedding
    loss       = sum_{i in U} sum_k |P_ik - Y_ik| / |U|

A batch is one forest. Its vertices are the pixels of all images, numbered ``b n + y w + x`` with n = h w; whatever runs
along the trees visits them level by level, all images at once. B is the batch, N = B n, (h, w) the grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array, csgraph, csr_array
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from agmm import losses
from agmm.codes import UNLABELED
from agmm.objectives import Objective, Output, batch_loss
from agmm.objectives.checks import check_layer


@dataclass(frozen=True)
class Forest:
    """Minimum spanning trees of a batch, in breadth-first order: every parent precedes its children."""

    order: Tensor  # (N,) int64: vertex at each position; the first B are the roots, the images' first pixels
    position: Tensor  # (N,) int64: inverse of ``order``
    parent: Tensor  # (N,) int64: position of each position's parent; 0 for roots, whose edge weight is 0
    edge: Tensor  # (N - B,) int64: index into flattened `edge_costs` of the edge from each but the roots to its parent
    levels: tuple[int, ...]  # number of positions of each depth


def edge_costs(guide: Tensor) -> Tensor:
    """Return squared differences (B, 2hw - h - w) between 4-neighbors of a guide (B, C, h, w), summed over channels.

    The edges between rows come first, then those between columns, both in row-major order.
    """
    rows = (guide[:, :, 1:] - guide[:, :, :-1]).square().sum(1)
    columns = (guide[..., 1:] - guide[..., :-1]).square().sum(1)
    return torch.cat([rows.flatten(1), columns.flatten(1)], 1)


def spanning_forest(costs: Tensor, size: tuple[int, int]) -> Forest:
    """Span every image by a tree of least `edge_costs` on a grid (h, w), and order its vertices.

    The forest is on the device of the costs; the trees are built on the CPU. The choice of edges has no gradient.
    """
    tree, roots = minimum_spanning_tree(costs, size), len(costs)
    # Breadth-first from the vertex above all roots, which is then left out.
    order, predecessor = csgraph.breadth_first_order(tree, tree.shape[0] - 1, directed=False)
    order = order[1:].astype(np.int64)
    position, above = np.argsort(order), predecessor[order[roots:]].astype(np.int64)
    parent = np.concatenate([np.zeros(roots, np.int64), position[above]])
    arrays = order, position, parent, _edge_between(order[roots:], above, size)
    tensors = [torch.from_numpy(array).to(costs.device) for array in arrays]
    return Forest(tensors[0], tensors[1], tensors[2], tensors[3], _level_sizes(parent, roots))


def minimum_spanning_tree(costs: Tensor, size: tuple[int, int]) -> csr_array:
    """Return the spanning trees of a batch, joined by edges from a vertex N to the first pixel of every image.

    As in the official code, ``1 + cost`` is compared in float32, and of equal edges the first one wins. The 1 absorbs
    rounding: equal differences of an 8-bit image tie, whatever the colors. The array (N + 1, N + 1) has an entry for
    each edge of the trees, in one direction.
    """
    (batch, edges), pixel = costs.shape, np.arange(size[0] * size[1]).reshape(size)
    starts = pixel.size * np.arange(batch)[:, None]
    first = np.concatenate([pixel[:-1].ravel(), pixel[:, :-1].ravel()]) + starts
    second = np.concatenate([pixel[1:].ravel(), pixel[:, 1:].ravel()]) + starts
    sizes = (1 + costs.detach().float()).cpu().numpy().ravel()
    # SciPy sorts unstably and takes 0 for no edge, hence ranks from 1.
    rank = np.empty(batch * (edges + 1), np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(1, batch * edges + 1)
    rank[batch * edges :] = 1
    n = batch * pixel.size
    ends = np.append(first, np.full(batch, n)), np.append(second, starts)
    return csgraph.minimum_spanning_tree(coo_array((rank, ends), shape=(n + 1, n + 1)).tocsr())


def edge_weights(costs: Tensor, forest: Forest, sigma: float = 1.0) -> Tensor:
    """Return ``exp(-cost / sigma)`` of the edge to each parent, 0 for the roots: (N,)."""
    weights = (-costs.flatten().index_select(0, forest.edge) / sigma).exp()
    return F.pad(weights, (len(costs), 0))


def tree_filter(x: Tensor, weights: Tensor, forest: Forest) -> Tensor:
    """Average x (B, K, h, w) by the products of `edge_weights` (N,) along the paths; differentiable once in both."""
    rows = x.movedim(1, -1)
    # A column of ones becomes the sum of the weights.
    sums = _PathSums.apply(F.pad(rows, (0, 1), value=1.0).flatten(0, 2), weights, forest)
    return (sums[:, :-1] / sums[:, -1:]).view(rows.shape).movedim(-1, 1)


def smooth_along(x: Tensor, guide: Tensor, sigma: float = 1.0) -> Tensor:
    """Apply the `tree_filter` to (B, K, h, w) along the minimum spanning trees of a guide (B, C, h, w)."""
    costs = edge_costs(guide)
    forest = spanning_forest(costs, (guide.shape[2], guide.shape[3]))
    return tree_filter(x, edge_weights(costs, forest, sigma), forest)


def tree_energy_loss(
    logits: Tensor, images: Tensor, unlabeled: Tensor, embedding: Tensor | None = None, *, sigma: float = 0.02
) -> Tensor:
    """Average the L1 distance of probabilities to their smoothed form over unlabeled pixels: (), with a graph.

    Logits (B, K, h, w) are those of the decoder, at its resolution. Images (B, 3, H, W) are RGB in [0, 1], not
    normalized, and resized to the grid; their tree passes no gradient. ``unlabeled`` (B, H, W) bool are pixels without
    annotation that are not void; the nearest one counts for a pixel of the grid. The embedding (B, C, h, w) guides the
    second, high-level tree, which is left out without it. ``sigma`` is the bandwidth of the colors; the official code
    has 0.02 on VOC, 0.002 on Cityscapes and ADE20K. As there, the absolute differences are summed over classes, the
    smoothed form is not detached, and the filters see every pixel, labeled and void ones too. The average is always
    over the batch at hand, and exactly 0 where no pixel of the grid is unlabeled.
    """
    p, size = logits.softmax(1), logits.shape[2:]
    colors = F.interpolate(images.detach().to(p.dtype), size=size, mode="bilinear", align_corners=False)
    smooth = smooth_along(p, colors, sigma)
    if embedding is not None:
        smooth = smooth_along(smooth, embedding)
    inside = F.interpolate(unlabeled.unsqueeze(1).to(p.dtype), size=size)
    return ((p - smooth).abs() * inside).sum() / inside.sum().clamp_min(1)


@dataclass(eq=False)
class TreeEnergy(Objective, nn.Module):
    """Partial cross-entropy and tree energy loss; its parameters, the embedding's layer, exist in training only."""

    num_classes: int
    in_channels: int = 256  # C of the decoder's features and of the embedding
    sigma: float = 0.02  # see `tree_energy_loss`
    weight: float = 0.4  # factor on the tree energy loss
    high_level: bool = True  # smooth along the tree of the embedding, too; without it there are no parameters

    needs = ("images", "grid_logits", "inner_features")

    def __post_init__(self) -> None:
        super().__init__()
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")
        self.embed: nn.Sequential | None = None
        if self.high_level:
            convolution = nn.Conv2d(self.in_channels, self.in_channels, 1, bias=False)
            self.embed = nn.Sequential(convolution, nn.BatchNorm2d(self.in_channels), nn.ReLU())

    @batch_loss
    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        image_classes: Tensor,
        counts: losses.Counts,
        *,
        images: Tensor,
        grid_logits: Tensor,
        inner_features: Tensor,
    ) -> Output:
        """Return the terms seg and tree; ``features`` and ``image_classes`` are not used, see `batch_loss`.

        ``images`` (B, 3, H, W) are RGB in [0, 1], not normalized, ``grid_logits`` (B, K, h, w) the logits before they
        are upsampled, ``inner_features`` (B, C, h, w) the decoder's before its last convolution, of which, as
        in the official code, the embedding is made.
        """
        seg = losses.partial_cross_entropy(logits, labels, counts)
        embedding = None
        if self.embed is not None:
            check_layer("inner_features", inner_features, self.embed[0])
            embedding = self.embed(inner_features)
        tree = tree_energy_loss(grid_logits, images, labels == UNLABELED, embedding, sigma=self.sigma)
        return Output(seg + self.weight * tree, {"seg": seg, "tree": tree})


class _PathSums(torch.autograd.Function):
    """``S x`` of rows (N, C) in the numbering of the vertices, S_ij the product of the weights between i and j."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, forest: Forest) -> Tensor:
        subtrees = _subtree_sums(x.index_select(0, forest.order), weights, forest)
        sums = _whole_tree_sums(subtrees, weights, forest)
        ctx.forest, save = forest, ctx.needs_input_grad[1]
        ctx.save_for_backward(weights, *((subtrees, sums) if save else ()))
        return sums.index_select(0, forest.position)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (weights, *saved), forest = ctx.saved_tensors, ctx.forest
        # S is symmetric, so its transpose is the same two passes.
        grad_subtrees = _subtree_sums(grad.index_select(0, forest.order), weights, forest)
        grad_sums = _whole_tree_sums(grad_subtrees, weights, forest)
        grad_weights = None
        if saved:
            # An edge joins its subtree with the rest of the tree, and S x holds each product of the two in both ways.
            subtrees, sums = saved
            rest = _beyond_parent(sums, subtrees, weights, forest)
            grad_rest = _beyond_parent(grad_sums, grad_subtrees, weights, forest)
            grad_weights = (grad_subtrees * rest + subtrees * grad_rest).sum(1)
        return grad_sums.index_select(0, forest.position), grad_weights, None


def _subtree_sums(x: Tensor, weights: Tensor, forest: Forest) -> Tensor:
    """Sum over each vertex's subtree, weighted, from the leaves to the roots; (N, C) in the forest's order."""
    total = x.clone()
    levels = [y.split(forest.levels) for y in (total, weights.unsqueeze(1), forest.parent)]
    for rows, weight, parent in list(zip(*levels, strict=True))[:0:-1]:
        total.index_add_(0, parent, weight * rows)
    return total


def _whole_tree_sums(subtrees: Tensor, weights: Tensor, forest: Forest) -> Tensor:
    """Compute ``A = w A_parent + (1 - w^2) X``, the parent's sum without its share from here, from the roots on."""
    weights = weights.unsqueeze(1)
    total = (1 - weights.square()) * subtrees
    levels = [y.split(forest.levels) for y in (total, weights, forest.parent)]
    for rows, weight, parent in list(zip(*levels, strict=True))[1:]:
        rows.addcmul_(weight, total.index_select(0, parent))
    return total


def _beyond_parent(sums: Tensor, subtrees: Tensor, weights: Tensor, forest: Forest) -> Tensor:
    """``A_parent - w X``: the parent's sum over everything outside of a vertex's own subtree; (N, C)."""
    return torch.addcmul(sums.index_select(0, forest.parent), weights.unsqueeze(1), subtrees, value=-1)


def _edge_between(vertex: np.ndarray, neighbor: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Index of an edge in the flattened costs of a batch."""
    height, width = size
    image, pixel = np.divmod(np.minimum(vertex, neighbor), height * width)
    row, column = np.divmod(pixel, width)
    between_columns = (height - 1) * width + row * (width - 1) + column
    within = np.where(np.abs(vertex - neighbor) == width, pixel, between_columns)
    return image * (2 * height * width - height - width) + within


def _level_sizes(parent: np.ndarray, roots: int) -> tuple[int, ...]:
    """A level ends before the first vertex whose parent is not in the level above; parents are in ascending order."""
    ends = [0, roots]
    while ends[-1] < len(parent):
        ends.append(int(np.searchsorted(parent, ends[-1])))
    return tuple(np.diff(ends).tolist())
