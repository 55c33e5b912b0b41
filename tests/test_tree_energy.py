from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from agmm.codes import UNLABELED, VOID
from agmm.objectives import Baseline
from agmm.rivals import tree_energy
from agmm.rivals.tree_energy import TreeEnergy, edge_costs, smooth_along, spanning_forest, tree_energy_loss, tree_filter
from tests.helpers import golden

PRECISIONS = (
    pytest.param(torch.float64, "f64", {"rtol": 1e-9, "atol": 1e-12}, id="float64"),
    pytest.param(torch.float32, "f32", {"rtol": 1e-4, "atol": 1e-6}, id="float32"),
)
quick = settings(deadline=None, max_examples=25)
batches = st.tuples(*(st.integers(1, most) for most in (3, 4, 7, 7)))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tree_edges(forest, batch):
    """Edges (B, n - 1, 2) between the pixels of each image, as sorted pairs in sorted order."""
    child, parent = forest.order[batch:].numpy(), forest.order[forest.parent[batch:]].numpy()
    edges = np.sort(np.stack([child, parent], 1), 1)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))].reshape(batch, -1, 2)
    return edges - len(forest.order) // batch * np.arange(batch)[:, None, None]


def brute_force(x, forest, weights):
    """The mean over all pixels, each with the product of the weights on the path to it."""
    order, child = forest.order.numpy(), np.arange(forest.levels[0], len(weights))
    with np.errstate(divide="ignore"):
        lengths = -np.log(weights.detach().numpy()[child])
    edges = csr_array((lengths, (order[child], order[forest.parent.numpy()[child]])), shape=(len(weights),) * 2)
    products = np.exp(-shortest_path(edges, method="D", directed=False))
    rows = x.movedim(1, -1).flatten(0, 2).numpy()
    filtered = products @ rows / products.sum(1, keepdims=True)
    return torch.tensor(filtered).view(x.movedim(1, -1).shape).movedim(-1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["distinct", "highdim", "ties"])
def test_golden_trees(name, dtype):
    arrays, _ = golden("tel_minimum_spanning_tree")
    guide = torch.tensor(arrays[f"{name}_guide"], dtype=dtype)
    costs = edge_costs(guide)
    np.testing.assert_allclose(1 + costs, arrays[f"{name}_weight"], rtol=1e-6)
    forest = spanning_forest(costs, guide.shape[2:])
    assert np.array_equal(tree_edges(forest, len(guide)), arrays[f"{name}_tree"])
    total = (1 + costs.flatten()[forest.edge].double()).sum()
    assert total.item() == pytest.approx(arrays[f"{name}_tree_total_weight"].sum(), rel=1e-6)


@given(st.integers(1, 200), st.integers(0, 5))
@quick
def test_a_brighter_8_bit_image_has_the_same_tree(shift, seed):
    image = torch.randint(0, 50, (1, 3, 9, 8), generator=torch.Generator().manual_seed(seed))
    trees = [tree_edges(spanning_forest(edge_costs(x.float() / 255), (9, 8)), 1) for x in (image, image + shift)]
    assert np.array_equal(*trees)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("sigma", [0.02, 0.1, 1])
def test_golden_filter_along_colors(sigma, dtype, suffix, tolerance):
    arrays, _ = golden("tel_tree_filter")
    x, guide, upstream = (torch.tensor(arrays[name], dtype=dtype) for name in ("feature", "guide", "upstream"))
    y = smooth_along(x.requires_grad_(), guide, sigma)
    y.backward(upstream)
    np.testing.assert_allclose(y.detach(), arrays[f"low_sigma{sigma}_{suffix}"], **tolerance)
    np.testing.assert_allclose(x.grad, arrays[f"low_sigma{sigma}_grad_feature_{suffix}"], **tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_golden_filter_along_an_embedding(groups, dtype, suffix, tolerance):
    """The vectors take the tree from a guide and the weights from an embedding, for each group of channels."""
    arrays, _ = golden("tel_tree_filter")
    names = ("feature", "embed", "guide", "upstream")
    x, embedding, guide, upstream = (torch.tensor(arrays[name], dtype=dtype) for name in names)
    forest = spanning_forest(edge_costs(guide), guide.shape[2:])
    assert np.array_equal(tree_edges(forest, len(x)), arrays["tree"])
    parts = zip(x.requires_grad_().chunk(groups, 1), embedding.requires_grad_().chunk(groups, 1), strict=True)
    ys = [tree_filter(a, tree_energy.edge_weights(edge_costs(b), forest), forest) for a, b in parts]
    torch.cat(ys, 1).backward(upstream)
    found = {"": torch.cat(ys, 1).detach(), "grad_feature_": x.grad, "grad_embed_": embedding.grad}
    for name, value in found.items():
        np.testing.assert_allclose(value, arrays[f"high_embed_groups{groups}_{name}{suffix}"], **tolerance)


@given(batches, st.integers(0, 3))
@quick
def test_filter_equals_the_matrix_of_all_paths(shape, seed):
    batch, channels, height, width = shape
    forest = spanning_forest(edge_costs(random(batch, 3, height, width, seed=seed)), (height, width))
    weights = random(batch * height * width, seed=seed + 1)
    weights[:batch] = 0  # the roots have no edge
    x = random(batch, channels, height, width, seed=seed + 2)
    expected = brute_force(x, forest, weights)
    torch.testing.assert_close(tree_filter(x, weights, forest), expected, rtol=1e-12, atol=1e-12)


def test_weights_that_underflow_are_harmless():
    x, guide = random(1, 2, 9, 9, dtype=torch.float32), 100 * random(1, 3, 9, 9, seed=1, dtype=torch.float32)
    leaves = x.requires_grad_(), guide.requires_grad_()
    y = smooth_along(*leaves, 0.002)
    torch.testing.assert_close(y, x)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.square().sum(), leaves))


def test_the_filter_repeats_itself_and_knows_no_memory_layout():
    x, guide = random(2, 5, 9, 8, dtype=torch.float32), random(2, 3, 9, 8, seed=1, dtype=torch.float32)
    y = smooth_along(x, guide, 0.1)
    assert torch.equal(smooth_along(x, guide, 0.1), y)
    assert torch.equal(smooth_along(x.to(memory_format=torch.channels_last), guide, 0.1), y)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", ["cascade", "cascade_small", "low_only", "no_unlabelled", "ties"])
def test_golden_loss(name, dtype, suffix, tolerance):
    arrays, info = golden(f"tel_loss_{name}")
    options, learned = info["arguments"], ("preds", "high_feats")
    leaves = {key: torch.tensor(arrays[key], dtype=dtype, requires_grad=True) for key in learned if key in arrays}
    assert len(leaves) == 1 + options["high_level"]
    images, unlabeled = torch.tensor(arrays["low_feats"], dtype=dtype), torch.tensor(arrays["unlabeled_ROIs"]) > 0
    inputs = leaves["preds"], images, unlabeled, leaves.get("high_feats")
    loss = options["weight"] * tree_energy_loss(*inputs, sigma=options["sigma"])
    loss.backward()
    found = {"loss": loss.detach()} | {f"grad_{key}": leaf.grad for key, leaf in leaves.items()}
    for key, value in found.items():
        np.testing.assert_allclose(value, arrays[f"{key}_{suffix}"], **tolerance)
        if dtype == torch.float64 and f"exact_{key}" in arrays:
            np.testing.assert_allclose(value, arrays[f"exact_{key}"], **tolerance)


@pytest.mark.parametrize("high_level", [True, False])
def test_loss_equals_the_equations(high_level):
    (_, _, labels, _), given = batch(torch.float64)
    logits, images, unlabeled = given["grid_logits"], given["images"], labels == UNLABELED
    embedding = given["inner_features"] if high_level else None
    p = logits.softmax(1).detach()
    y = p
    guides = [(F.interpolate(images, size=(6, 7), mode="bilinear"), 0.02), (embedding, 1.0)]
    for guide, sigma in guides[: 1 + high_level]:
        forest = spanning_forest(edge_costs(guide), (6, 7))
        y = brute_force(y, forest, tree_energy.edge_weights(edge_costs(guide), forest, sigma))
    nearest = unlabeled[:, ::4, ::4]
    expected = ((p - y).abs().sum(1) * nearest).sum() / nearest.sum()
    found = tree_energy_loss(logits, images.requires_grad_(), unlabeled, embedding)
    assert torch.autograd.grad(found, images, allow_unused=True, retain_graph=True)[0] is None
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert 0 <= found.item() <= 2
    assert tree_energy_loss(logits, images, unlabeled, embedding, sigma=0.002) != found


def batch(dtype=torch.float32, labeled=0.2):
    """Arguments of an objective: positional ones and keywords."""
    logits = (4 * random(2, 5, 6, 7, dtype=dtype)).requires_grad_()
    labels = torch.full((2, 24, 28), UNLABELED)
    known = random(2, 24, 28, seed=3) < labeled
    labels[known] = torch.randint(0, 5, labels.shape, generator=torch.Generator().manual_seed(4))[known]
    labels[:, :4] = VOID
    large = F.interpolate(logits, size=(24, 28), mode="bilinear")
    fused = random(2, 8, 6, 7, seed=2, dtype=dtype).requires_grad_()
    more = {"images": random(2, 3, 24, 28, seed=1, dtype=dtype), "grid_logits": logits, "inner_features": fused}
    return (fused, large, labels, torch.ones(2, 5, dtype=torch.bool)), more


def test_objective_adds_the_loss_to_the_cross_entropy():
    torch.manual_seed(0)
    objective = TreeEnergy(5, in_channels=8)
    arguments, more = batch()
    output = objective(*arguments, **more)
    assert list(output.terms) == ["seg", "tree"]
    torch.testing.assert_close(output.terms["seg"], Baseline(5)(*arguments).loss)
    torch.testing.assert_close(output.loss, output.terms["seg"] + 0.4 * output.terms["tree"])
    embedding = objective.embed(more["inner_features"])
    assert embedding.shape == more["inner_features"].shape
    unlabeled = arguments[2] == UNLABELED
    expected = tree_energy_loss(more["grid_logits"], more["images"], unlabeled, embedding)
    torch.testing.assert_close(output.terms["tree"], expected)
    output.loss.backward()
    assert all(parameter.grad.any() for parameter in objective.parameters())
    assert more["inner_features"].grad.any()


def test_objective_without_the_high_level_tree_has_no_parameters():
    objective = TreeEnergy(5, high_level=False, sigma=0.002)
    assert not list(objective.parameters())
    arguments, more = batch()
    unlabeled = arguments[2] == UNLABELED
    expected = tree_energy_loss(more["grid_logits"], more["images"], unlabeled, sigma=0.002)
    torch.testing.assert_close(objective(*arguments, **more).terms["tree"], expected)


def test_objective_where_every_pixel_is_labeled_or_none():
    objective = TreeEnergy(5, in_channels=8)
    arguments, more = batch(labeled=1.0)
    output = objective(*arguments, **more)
    assert output.terms["tree"].item() == 0
    output.terms["tree"].backward()
    tensors = more["grid_logits"], more["inner_features"], *objective.parameters()
    assert not any(tensor.grad.any() for tensor in tensors)
    arguments, more = batch(labeled=0.0)
    output = objective(*arguments, **more)
    assert output.terms["seg"].item() == 0 < output.loss


def test_objective_computes_in_float32_under_autocast():
    torch.manual_seed(0)
    objective = TreeEnergy(5, in_channels=8)
    arguments, more = batch()
    plain = objective(*arguments, **more)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(*arguments, **more)
    assert torch.equal(mixed.loss, plain.loss)
    halves = {name: value.bfloat16() if name != "images" else value for name, value in more.items()}
    assert objective(arguments[0], arguments[1].bfloat16(), *arguments[2:], **halves).loss.dtype == torch.float32


def test_the_embedding_has_the_channels_of_the_network():
    wider = replace(TreeEnergy(5, in_channels=8), in_channels=16)
    assert Counter(p.numel() for p in wider.parameters()) == {256: 1, 16: 2}
    with pytest.raises(ValueError, match="sigma must be positive"):
        TreeEnergy(5, sigma=0.0)
