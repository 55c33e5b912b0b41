from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from agmm import losses
from agmm.codes import UNLABELED, VOID
from agmm.objectives import Baseline
from agmm.rivals import tree_energy
from agmm.rivals.tree_energy import TreeEnergy, edge_costs, smooth_along, spanning_forest, tree_energy_loss, tree_filter
from tests.helpers import golden

LOSSES = ("cascade", "cascade_small", "low_only", "no_unlabelled", "ties")
PRECISIONS = (
    pytest.param(torch.float64, "f64", {"rtol": 1e-9, "atol": 1e-12}, id="float64"),
    pytest.param(torch.float32, "f32", {"rtol": 1e-4, "atol": 1e-6}, id="float32"),
)
quick = settings(deadline=None, max_examples=25)
batches = st.tuples(*(st.integers(1, most) for most in (3, 4, 7, 7)))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_forest(batch, height, width, seed=0):
    """A forest of random costs and a weight in (0, 1) for each of its edges, 0 for the roots."""
    forest = spanning_forest(edge_costs(random(batch, 3, height, width, seed=seed)), (height, width))
    weights = random(batch * height * width, seed=seed + 1)
    weights[:batch] = 0
    return forest, weights


def tree_edges(forest, batch):
    """Edges (B, n - 1, 2) between the pixels of each image, as sorted pairs in sorted order."""
    child, parent = forest.order[batch:].numpy(), forest.order[forest.parent[batch:]].numpy()
    edges = np.sort(np.stack([child, parent], 1), 1)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))].reshape(batch, -1, 2)
    return edges - len(forest.order) // batch * np.arange(batch)[:, None, None]


def path_products(forest, weights):
    """S: the product of the weights on the path between any two vertices, one row of a vertex after the other."""
    count = len(weights)
    neighbors = [[] for _ in range(count)]
    for child, (parent, weight) in enumerate(zip(forest.parent.tolist(), weights.tolist(), strict=True)):
        if child >= forest.levels[0]:
            neighbors[child].append((parent, weight))
            neighbors[parent].append((child, weight))
    products = np.zeros((count, count))
    for start in range(count):
        stack = [(start, start, 1.0)]
        while stack:
            here, before, product = stack.pop()
            products[start, here] = product
            stack += [(there, here, product * weight) for there, weight in neighbors[here] if there != before]
    order = forest.order.numpy()
    in_vertices = np.zeros_like(products)
    in_vertices[np.ix_(order, order)] = products
    return in_vertices


def brute_force(x, forest, weights):
    rows = x.movedim(1, -1).flatten(0, 2).numpy()
    products = path_products(forest, weights)
    filtered = products @ rows / products.sum(1, keepdims=True)
    return torch.tensor(filtered).view(x.movedim(1, -1).shape).movedim(-1, 1)


def plain_filter(x, weights, forest):
    """The two passes in operations that autograd differentiates itself, a tensor for each level."""
    rows = F.pad(x.movedim(1, -1), (0, 1), value=1.0)
    xs = rows.flatten(0, 2)[forest.order].split(forest.levels)
    ws = weights.unsqueeze(1).split(forest.levels)
    starts = np.cumsum((0, *forest.levels))
    parents = [p - start for p, start in zip(forest.parent.split(forest.levels)[1:], starts, strict=False)]
    up = [xs[-1]]
    for level in range(len(xs) - 2, -1, -1):
        up.insert(0, xs[level].index_add(0, parents[level], ws[level + 1] * up[0]))
    down = up[:1]
    for level in range(1, len(xs)):
        down.append(ws[level] * down[-1][parents[level - 1]] + (1 - ws[level].square()) * up[level])
    sums = torch.cat(down)[forest.position]
    return (sums[:, :-1] / sums[:, -1:]).view(x.movedim(1, -1).shape).movedim(-1, 1)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm().clamp_min(1e-300)).item()


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


@given(batches)
@quick
def test_forest_is_breadth_first_and_its_edges_join_neighbors(shape):
    batch, channels, height, width = shape
    guide = random(batch, channels, height, width)
    forest = spanning_forest(edge_costs(guide), (height, width))
    count = batch * height * width
    assert torch.equal(forest.order[forest.position], torch.arange(count))
    assert sorted(forest.order[:batch].tolist()) == list(range(0, count, height * width))
    assert sum(forest.levels) == count
    depth = torch.zeros(count, dtype=torch.long)
    for child in range(batch, count):
        depth[child] = depth[forest.parent[child]] + 1
    assert tuple(torch.bincount(depth).tolist()) == forest.levels
    assert torch.equal(depth, depth.sort()[0])
    colors = guide.movedim(1, -1).flatten(0, 2)[forest.order]
    across = (colors - colors[forest.parent])[batch:].square().sum(1)
    torch.testing.assert_close(edge_costs(guide).flatten()[forest.edge], across)


@given(batches)
@quick
def test_trees_are_as_light_as_scipy_finds_them(shape):
    batch, channels, height, width = shape
    costs = edge_costs(random(batch, channels, height, width))
    forest = spanning_forest(costs, (height, width))
    pixel = np.arange(height * width).reshape(height, width)
    ends = [np.concatenate(part) for part in zip(*((a.ravel(), b.ravel()) for a, b in _neighbors(pixel)), strict=True)]
    for image, weights in enumerate(costs.numpy()):
        dense = np.zeros((pixel.size, pixel.size))
        dense[ends[0], ends[1]] = weights
        mine = forest.order[batch:] // pixel.size == image
        total = costs.flatten()[forest.edge][mine].sum().item()
        assert total == pytest.approx(csgraph.minimum_spanning_tree(dense).sum())


def _neighbors(pixel):
    return (pixel[:-1], pixel[1:]), (pixel[:, :-1], pixel[:, 1:])


def test_of_equal_edges_the_first_ones_are_taken():
    forest = spanning_forest(edge_costs(torch.ones(2, 3, 4, 3)), (4, 3))
    columns = [(y * 3 + x, y * 3 + x + 3) for y in range(3) for x in range(3)]
    expected = sorted([*columns, (0, 1), (1, 2)])
    assert [[tuple(edge) for edge in image.tolist()] for image in tree_edges(forest, 2)] == [expected, expected]


@given(st.integers(1, 200), st.integers(0, 5))
@quick
def test_a_brighter_8_bit_image_has_the_same_tree(shift, seed):
    image = torch.randint(0, 50, (1, 3, 9, 8), generator=torch.Generator().manual_seed(seed))
    trees = [tree_edges(spanning_forest(edge_costs(x.float() / 255), (9, 8)), 1) for x in (image, image + shift)]
    assert np.array_equal(*trees)


def test_trees_carry_no_gradient():
    guide = random(1, 2, 3, 4).requires_grad_()
    forest = spanning_forest(edge_costs(guide), (3, 4))
    assert not any(x.requires_grad for x in (forest.order, forest.position, forest.parent, forest.edge))


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
    forest, weights = random_forest(batch, height, width, seed)
    x = random(batch, channels, height, width, seed=seed + 2)
    expected = brute_force(x, forest, weights)
    torch.testing.assert_close(tree_filter(x, weights, forest), expected, rtol=1e-12, atol=1e-12)


@given(batches, st.integers(0, 3))
@quick
def test_gradients_equal_those_of_autograd(shape, seed):
    batch, channels, height, width = shape
    forest, weights = random_forest(batch, height, width, seed)
    x, upstream = random(2, *shape, seed=seed + 2)
    leaves = x.requires_grad_(), weights.requires_grad_()
    closed, plain = tree_filter(x, weights, forest), plain_filter(x, weights, forest)
    torch.testing.assert_close(closed, plain, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(y, leaves, upstream, materialize_grads=True) for y in (closed, plain))
    (through_x, through_weights), (expected_x, expected_weights) = gradients
    assert relative(through_x, expected_x) < 1e-8
    if height * width > 1:
        assert relative(through_weights[batch:], expected_weights[batch:]) < 1e-8


def test_gradients_equal_finite_differences():
    x, embedding = random(2, 2, 3, 4).requires_grad_(), random(2, 3, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, e: smooth_along(x, e, 0.7), (x, embedding))


def test_float32_is_close_to_float64_on_a_larger_grid():
    x, guide = random(2, 5, 40, 48), random(2, 3, 40, 48, seed=1).round(decimals=3)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = x.to(dtype).requires_grad_(), guide.to(dtype).requires_grad_()
        y = smooth_along(*leaves, 0.1)
        gradients = torch.autograd.grad(y, leaves, x.sin().to(dtype))
        results.append([value.detach().double() for value in (y, *gradients)])
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < 1e-5


@given(batches, st.floats(1e-3, 10))
@quick
def test_result_is_a_mean_of_the_pixels(shape, sigma):
    batch, channels, height, width = shape
    guide = random(batch, 3, height, width)
    x = random(*shape, seed=1)
    y = smooth_along(x, guide, sigma)
    assert (y <= x.amax((2, 3), keepdim=True) + 1e-12).all()
    assert (y >= x.amin((2, 3), keepdim=True) - 1e-12).all()
    constant = torch.full_like(x, 0.3)
    torch.testing.assert_close(smooth_along(constant, guide, sigma), constant, rtol=1e-12, atol=0)
    p = x.softmax(1)
    torch.testing.assert_close(smooth_along(p, guide, sigma).sum(1), torch.ones_like(p[:, 0]), rtol=1e-12, atol=0)


def test_weights_of_one_give_the_mean_and_weights_of_zero_the_input():
    forest, weights = random_forest(2, 6, 7)
    x = random(2, 3, 6, 7, seed=2)
    whole = tree_filter(x, (weights > 0).double(), forest)
    torch.testing.assert_close(whole, x.mean((2, 3), keepdim=True).expand_as(x), rtol=1e-12, atol=0)
    assert torch.equal(tree_filter(x, torch.zeros_like(weights), forest), x)


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
def test_the_root_does_not_matter(axes):
    """A flip puts another corner in the place of the root."""
    x, guide = random(2, 3, 6, 7), random(2, 3, 6, 7, seed=1)
    y, flipped = smooth_along(x, guide, 0.1), smooth_along(x.flip(axes), guide.flip(axes), 0.1)
    torch.testing.assert_close(flipped.flip(axes), y, rtol=1e-10, atol=1e-12)


def test_images_of_a_batch_do_not_meet():
    x, guide = random(3, 2, 5, 6), random(3, 3, 5, 6, seed=1)
    alone = torch.cat([smooth_along(x[i : i + 1], guide[i : i + 1], 0.1) for i in range(3)])
    torch.testing.assert_close(smooth_along(x, guide, 0.1), alone, rtol=1e-12, atol=1e-12)


def test_nothing_leaks_across_a_strong_edge():
    guide = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    guide[..., 4:] = 0.5
    x = random(1, 2, 8, 8)
    left, right = (half.mean((2, 3), keepdim=True).expand_as(half) for half in x.chunk(2, 3))
    # The only edge between the halves has weight exp(-3 * 0.5^2 / 0.02).
    torch.testing.assert_close(smooth_along(x, guide, 0.02), torch.cat([left, right], 3), rtol=1e-13, atol=1e-13)


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
@pytest.mark.parametrize("name", LOSSES)
def test_golden_loss(name, dtype, suffix, tolerance):
    arrays, info = golden(f"tel_loss_{name}")
    logits, images, embedding, unlabeled = golden_inputs(arrays, dtype)
    options = {key: info["arguments"][key] for key in ("sigma", "weight")}
    assert (embedding is not None) == info["arguments"]["high_level"]
    loss = tree_energy_loss(logits, images, unlabeled, embedding, **options)
    loss.backward()
    found = {"loss": loss.detach(), "grad_preds": logits.grad}
    if embedding is not None:
        found["grad_high_feats"] = embedding.grad
    for key, value in found.items():
        np.testing.assert_allclose(value, arrays[f"{key}_{suffix}"], **tolerance)
        if dtype == torch.float64 and f"exact_{key}" in arrays:
            np.testing.assert_allclose(value, arrays[f"exact_{key}"], **tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_golden_trees_and_maps_of_the_loss(name):
    arrays, info = golden(f"tel_loss_{name}")
    logits, images, embedding, _ = golden_inputs(arrays)
    size = logits.shape[2:]
    guides = {"low": F.interpolate(images, size=size, mode="bilinear"), "high": embedding}
    y, sigmas = logits.softmax(1), {"low": info["arguments"]["sigma"], "high": 1.0}
    for level, guide in guides.items():
        if guide is not None:
            assert np.array_equal(tree_edges(spanning_forest(edge_costs(guide), size), len(y)), arrays[f"tree_{level}"])
            y = smooth_along(y, guide, sigmas[level])
            np.testing.assert_allclose(y.detach(), arrays[f"AS_{level}_f64"], rtol=1e-9, atol=1e-12)
    if "exact_AS" in arrays:
        np.testing.assert_allclose(y.detach(), arrays["exact_AS"], rtol=1e-9, atol=1e-12)


def test_golden_path_distances():
    arrays, _ = golden("tel_loss_cascade_small")
    logits, images, embedding, _ = golden_inputs(arrays)
    size = logits.shape[2:]
    guides = {"low": F.interpolate(images, size=size, mode="bilinear"), "high": embedding.detach()}
    for level, guide in guides.items():
        forest = spanning_forest(edge_costs(guide), size)
        products = path_products(forest, tree_energy.edge_weights(edge_costs(guide), forest))
        blocks = products.reshape(2, size[0] * size[1], 2, size[0] * size[1])
        expected = np.exp(-arrays[f"exact_tree_distance_{level}"])
        np.testing.assert_allclose([blocks[i, :, i] for i in range(2)], expected, rtol=1e-9, atol=1e-12)


def golden_inputs(arrays, dtype=torch.float64):
    logits = torch.tensor(arrays["preds"], dtype=dtype, requires_grad=True)
    images = torch.tensor(arrays["low_feats"], dtype=dtype)
    embedding = None
    if "high_feats" in arrays:
        embedding = torch.tensor(arrays["high_feats"], dtype=dtype, requires_grad=True)
    return logits, images, embedding, torch.tensor(arrays["unlabeled_ROIs"]) > 0


def random_inputs(dtype=torch.float64):
    logits = (4 * random(2, 5, 6, 7, dtype=dtype)).requires_grad_()
    images, embedding = random(2, 3, 24, 28, seed=1, dtype=dtype), random(2, 4, 6, 7, seed=2, dtype=dtype)
    return logits, images, random(2, 24, 28, seed=3) < 0.8, embedding.requires_grad_()


@pytest.mark.parametrize("high_level", [True, False])
def test_loss_equals_the_equations(high_level):
    logits, images, unlabeled, embedding = random_inputs()
    if not high_level:
        embedding = None
    p = logits.softmax(1).detach()
    y = p
    for guide, sigma in ((F.interpolate(images, size=(6, 7), mode="bilinear"), 0.02), (embedding, 1.0)):
        if guide is not None:
            forest = spanning_forest(edge_costs(guide), (6, 7))
            y = brute_force(y, forest, tree_energy.edge_weights(edge_costs(guide), forest, sigma))
    nearest = unlabeled[:, ::4, ::4]
    expected = 0.4 * ((p - y).abs().sum(1) * nearest).sum() / nearest.sum()
    found = tree_energy_loss(logits, images, unlabeled, embedding)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert 0 <= found.item() <= 0.8


def test_weight_and_sigma_of_the_loss():
    inputs = random_inputs()
    loss = tree_energy_loss(*inputs)
    torch.testing.assert_close(tree_energy_loss(*inputs, weight=1.0), loss / 0.4)
    assert tree_energy_loss(*inputs, sigma=0.002) != loss


def test_without_unlabeled_pixels_the_loss_is_zero():
    logits, images, unlabeled, embedding = random_inputs()
    loss = tree_energy_loss(logits, images, torch.zeros_like(unlabeled), embedding)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (logits, embedding)))


def test_labeled_pixels_are_filtered_but_not_counted():
    logits, images, unlabeled, _ = random_inputs()
    gradient = torch.autograd.grad(tree_energy_loss(logits, images, unlabeled, sigma=1.0), logits)[0]
    labeled = ~unlabeled[:, ::4, ::4]
    assert (gradient.abs().sum(1)[labeled] > 0).all()


def test_images_receive_no_gradient():
    logits, images, unlabeled, embedding = random_inputs()
    loss = tree_energy_loss(logits, images.requires_grad_(), unlabeled, embedding)
    assert torch.autograd.grad(loss, images, allow_unused=True)[0] is None


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
    torch.testing.assert_close(0.4 * output.terms["tree"], expected)
    output.loss.backward()
    assert all(parameter.grad.any() for parameter in objective.parameters())
    assert more["inner_features"].grad.any()


def test_objective_without_the_high_level_tree_has_no_parameters():
    objective = TreeEnergy(5, high_level=False, sigma=0.002)
    assert not list(objective.parameters())
    arguments, more = batch()
    unlabeled = arguments[2] == UNLABELED
    expected = tree_energy_loss(more["grid_logits"], more["images"], unlabeled, sigma=0.002, weight=1.0)
    torch.testing.assert_close(objective(*arguments, **more).terms["tree"], expected)


def test_objective_where_every_pixel_is_labeled():
    objective = TreeEnergy(5, in_channels=8)
    arguments, more = batch(labeled=1.0)
    output = objective(*arguments, **more)
    assert output.terms["tree"].item() == 0
    output.terms["tree"].backward()
    tensors = more["grid_logits"], more["inner_features"], *objective.parameters()
    assert not any(tensor.grad.any() for tensor in tensors)


def test_objective_where_no_pixel_is_labeled():
    arguments, more = batch(labeled=0.0)
    output = TreeEnergy(5, in_channels=8)(*arguments, **more)
    assert output.terms["seg"].item() == 0
    assert output.loss > 0


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


def test_objective_takes_the_counts_of_an_effective_batch():
    arguments, more = batch()
    counts = losses.Counts(torch.tensor(1000.0), torch.tensor(2000.0))
    output = TreeEnergy(5, in_channels=8)(*arguments, counts, **more)
    torch.testing.assert_close(output.terms["seg"], Baseline(5)(*arguments, counts).loss)


def test_fields_describe_the_objective():
    objective = TreeEnergy(5, in_channels=8, sigma=0.002)
    assert asdict(objective) == {
        "num_classes": 5,
        "in_channels": 8,
        "sigma": 0.002,
        "weight": 0.4,
        "high_level": True,
    }
    wider = replace(objective, in_channels=16)
    assert Counter(p.numel() for p in wider.parameters()) == {256: 1, 16: 2}
    with pytest.raises(ValueError, match="sigma must be positive"):
        TreeEnergy(5, sigma=0.0)


def test_a_wrong_label_code_is_refused():
    arguments, more = batch()
    arguments[2][0, 0, 0] = 5
    with pytest.raises(ValueError, match="label code 5"):
        TreeEnergy(5, in_channels=8)(*arguments, **more)
