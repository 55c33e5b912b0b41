"""SPML beside vectors computed with the released code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agmm.rivals.spml import SPML, classifier, relations
from agmm.rivals.spml import segments as cutting
from tests.helpers import golden

PRECISIONS = (pytest.param("f64", torch.float64, id="float64"), pytest.param("f32", torch.float32, id="float32"))
precisions = pytest.mark.parametrize(("kind", "dtype"), PRECISIONS)


def close(found, expected, rtol, atol):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=rtol, atol=atol)


def near(found, expected, tolerance):
    """By the norm of the difference; a vector that is None is not compared."""
    assert expected is None or np.linalg.norm(found.numpy() - expected) <= tolerance * np.linalg.norm(expected)


def test_first_clusters_and_locations():
    arrays, _ = golden("spml_kmeans")
    assert np.array_equal(cutting.grid_clusters((20, 24), (4, 5)), arrays["initial_labels"])
    grids = [name.removeprefix("init_").split("_on_") for name in arrays if name.startswith("init_")]
    assert len(grids) == 6
    for clusters, size in grids:
        found = cutting.grid_clusters(*(tuple(map(int, sides.split("x"))) for sides in (size, clusters)))
        assert np.array_equal(found, arrays[f"init_{clusters}_on_{size}"]), (clusters, size)
    assert np.array_equal(cutting.locations((20, 24)).permute(1, 2, 0), arrays["location_float_minus_half"])
    assert np.array_equal(cutting.locations((7, 8)).permute(1, 2, 0), arrays["lc_loc"][0])
    images, kernel = torch.from_numpy(arrays["lc_image"]), torch.from_numpy(arrays["lc_kernel5"])
    found = cutting.grid_colors(images, (7, 8), kernel).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, arrays["lc_loc_color_smooth5"][..., 2:], rtol=1e-4, atol=1e-5)


@precisions
def test_kmeans(kind, dtype):
    arrays, info = golden("spml_kmeans")
    embedding = F.normalize(torch.tensor(arrays["embedding"], dtype=dtype), dim=1)
    vectors = cutting.with_location(embedding).flatten(2).mT
    tolerance = 1e-12 if kind == "f64" else 1e-6
    close(vectors[0], arrays["embedding_with_loc_f64"], tolerance, tolerance)
    first = cutting.grid_clusters((20, 24), (4, 5)).flatten()[None]
    for iterations in info["arguments"]["iterations"]:
        clusters = cutting.spherical_kmeans(vectors, first, 20, iterations)
        assert np.array_equal(clusters.view(20, 24), arrays[f"labels_{kind}_iter{iterations}"]), iterations
        if (expected := arrays.get(f"prototypes_{kind}_iter{iterations}")) is not None:
            close(cutting.directions(vectors[0], clusters[0], 20), expected, tolerance, tolerance)


@precisions
def test_segments(kind, dtype):
    arrays, _ = golden("spml_segment_by_kmeans")
    features = torch.tensor(arrays["embedding"], dtype=dtype)
    labels, regions = (torch.tensor(arrays[f"{name}_label"]).long() for name in ("semantic", "instance"))
    segments = cutting.cut(features, labels, regions, torch.zeros(2, 21).bool(), (3, 3))
    for name, found in (
        ("cluster_semantic_label", segments.labels),
        ("cluster_instance_label", segments.regions),
        ("cluster_index", segments.own),
        ("cluster_batch_index", segments.images),
        ("majority_label", segments.prototypes.labels),
    ):
        assert np.array_equal(found, arrays[f"{name}_{kind}"]), name
    tolerance = 1e-12 if kind == "f64" else 1e-6
    close(segments.prototypes.vectors, arrays[f"prototypes_{kind}"], tolerance, tolerance)
    if kind == "f64":
        close(segments.embeddings, arrays["cluster_embedding_f64"], tolerance, tolerance)
        close(segments.located, arrays["cluster_embedding_with_loc_f64"], tolerance, tolerance)
    whole = cutting.cut(features, 0 * labels, 0 * regions, torch.zeros(2, 21).bool(), (3, 3))
    assert np.array_equal(whole.own, arrays["cluster_index_without_labels_f64"])


def test_majority_takes_the_lowest_of_equals():
    arrays, _ = golden("spml_segment_by_kmeans")
    labels, own = (torch.tensor(arrays[f"ppl_{name}"]) for name in ("semantic", "instance"))
    found = classifier.majority(labels, own, int(own.max()) + 1, int(labels.max()) + 1)
    assert np.array_equal(found[own.unique()], arrays["fml_majority"])


def by_class(arrays):
    """Groups and positive segments where those of a pixel's class are positive."""
    positive = torch.tensor(arrays["prototype_semantic_label"]) == torch.arange(256)[:, None]
    return torch.tensor(arrays["semantic_label"]).long(), positive


def by_set(arrays):
    tags, known = (torch.tensor(arrays[name]).float() for name in ("semantic_tag", "prototype_semantic_tag"))
    return torch.arange(len(tags)), tags @ known.T > 0


@precisions
@pytest.mark.parametrize(("name", "groups"), [("segsort_plus", by_class), ("set_segsort_plus", by_set)])
@pytest.mark.parametrize("concentration", [6, 8, 12, 16])
def test_losses_of_pixels(concentration, name, groups, kind, dtype):
    arrays, info = golden("spml_segsort_losses")
    names = "embeddings", "prototypes"
    vectors, prototypes = (torch.tensor(arrays[key], dtype=dtype).requires_grad_() for key in names)
    own = torch.tensor(arrays["cluster_index"]).long()
    group, positive = groups(arrays)
    count, key = len(vectors), f"{name}_c{concentration}"

    def loss(weights):
        return relations.contrast(vectors, prototypes, own, group, positive, concentration, weights)

    # The released code loses digits in float32: its sums are differences, which we never take.
    lost = abs(info["arguments"]["measured_f32_minus_f64"][key]) if kind == "f32" else 0
    tolerance = (1e-9, 1e-8) if kind == "f64" else (1e-4, 1e-5 + 2 * lost)
    mean = loss(torch.full((count,), 1 / count, dtype=dtype))
    close(mean, arrays[f"{key}_{kind}_mean"], *tolerance)
    if kind == "f64":
        pixels = torch.stack([loss(one) for one in torch.eye(count, dtype=dtype)])
        close(pixels, arrays[f"{key}_f64_per_pixel"], *tolerance)
        close(loss(torch.ones(count, dtype=dtype)), arrays[f"{key}_f64_sum"], *tolerance)
    for name, gradient in zip(names, torch.autograd.grad(mean, (vectors, prototypes)), strict=True):
        near(gradient, arrays.get(f"{key}_f64_grad_{name}"), 1e-8 if kind == "f64" else 1e-5)


def objective_of(info):
    """With the weights and concentrations of a vector; its second relation is co-occurrence or affinity."""
    kappa, (c, second, i, _), densepose = info["concentration"], info["weights"], info["num_classes"] == 15
    slot = kappa["co-occurrence / feature affinity slot"]
    weights = {"lambda_c": c, "lambda_i": i, "lambda_o": 0, "lambda_a": 0}
    weights |= {"lambda_a" if densepose else "lambda_o": second}
    kappas = {"kappa_c": kappa["semantic annotation"], "kappa_o": slot, "kappa_a": slot}
    kappas |= {"kappa_i": kappa["image similarity"]}
    shape = {"clusters": tuple(info["kmeans_num_clusters"]), "memory": info["memory_bank_size"]}
    return SPML(info["num_classes"], **weights, **kappas, **shape, located=not densepose)


def classifier_of(arrays, dtype):
    states = {name[11:].replace("_", "."): torch.tensor(arrays[name]) for name in arrays if name[:11] == "classifier_"}
    if not states:
        return None
    hidden, channels = states["0.weight"].shape[:2]
    first, last = nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.Conv2d(hidden, len(states["4.weight"]), 1)
    net = nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(), nn.Dropout(0.65), last).to(dtype).eval()
    net.load_state_dict(states, strict=False)  # without the statistics of batch normalization, which are 0 and 1
    return net


def step_of(arrays, step, dtype, num_classes):
    """Features, labels and regions at three times the grid, tags."""
    features = torch.tensor(arrays[f"step{step}_embedding"], dtype=dtype).requires_grad_()
    labels, regions = (
        torch.tensor(arrays[f"step{step}_{name}_label"]).long().repeat_interleave(3, 1).repeat_interleave(3, 2)
        for name in ("semantic", "instance")
    )
    return features, labels, regions, torch.tensor(arrays[f"step{step}_semantic_tag"])[:, :num_classes].bool()


@precisions
@pytest.mark.parametrize("name", ["segsort_point", "segsort_softmax_scribble", "feature_affinity"])
def test_steps_of_a_training(name, kind, dtype):
    arrays, info = golden(f"spml_train_{name}")
    objective, classifier = objective_of(info["arguments"]), classifier_of(arrays, dtype)
    second = "affinity" if objective.lambda_a else "cooccurrence"
    weights = info["arguments"]["weights"]
    tolerance = (1e-9, 1e-12) if kind == "f64" else (1e-4, 1e-5)
    for step in range(info["arguments"]["steps"]):
        features, labels, regions, tags = step_of(arrays, step, dtype, objective.num_classes)
        if classifier is None:
            logits = features.new_zeros(len(features), objective.num_classes, *labels.shape[1:])
        else:
            small = classifier(F.normalize(features.detach(), dim=1))
            logits = F.interpolate(small, scale_factor=3, mode="bilinear")
            if (expected := arrays.get(f"step{step}_classifier_logit_{kind}")) is not None:
                close(small, expected, *tolerance)
        output = objective(features, logits, labels, tags, regions=regions)
        # Vectors without a classifier do not know its loss.
        classified = weights[0] * output.terms["classifier"] if classifier is not None else 0
        without = output.loss if classifier is not None else output.loss - weights[0] * output.terms["classifier"]
        close(without, arrays[f"step{step}_total_{kind}"], *tolerance)
        for term, key in (
            (weights[0] * output.terms["annotation"] + classified, "sem_ann"),
            (weights[1] * output.terms[second], "sem_occ"),
            (weights[2] * output.terms["low_level"], "img_sim"),
        ):
            close(term, arrays[f"step{step}_{key}_loss_{kind}"], *tolerance)
            gradient = torch.autograd.grad(term, features, retain_graph=True)[0]
            expected = arrays.get(f"step{step}_grad_embedding_of_{key}_loss_as_f32")
            near(gradient, expected, 1e-7 if kind == "f64" else 1e-4)
        gradient = torch.autograd.grad(without, features)[0]
        near(gradient, arrays.get(f"step{step}_grad_embedding_as_f32"), 1e-7 if kind == "f64" else 1e-4)


def test_possible_classes():
    arrays, info = golden("spml_train_feature_affinity")
    features, labels, regions, tags = step_of(arrays, 0, torch.float64, 15)
    segments = cutting.cut(features, labels[:, 1::3, 1::3], regions[:, 1::3, 1::3], tags, (4, 4))
    found = relations.possible_classes(segments, 15)
    expected = arrays["step0_nearest_labels_before_fill_f64"].astype(bool)
    filled = expected.any(1)
    assert filled.any()
    assert not filled.all()
    assert np.array_equal(found[filled], expected[filled])
    assert found[~filled].all()


@precisions
@pytest.mark.parametrize("name", ["spml_random_walk_cam", "spml_random_walk_softmax"])
def test_random_walk(name, kind, dtype):
    arrays, _ = golden(name)
    plain, mirrored = (torch.tensor(arrays[f"embedding_{view}"][0], dtype=dtype) for view in ("plain", "flipped"))
    height, width = plain.shape[1:]
    size = (height // 8, width // 8)
    affinities = classifier.affinity([classifier.resized(view, size) for view in (plain, mirrored.flip(-1))])
    steps = classifier.transitions(affinities)
    if "logit_plain" in arrays:
        logits, other = (torch.tensor(arrays[f"logit_{view}"][0], dtype=dtype) for view in ("plain", "flipped"))
        named = torch.isin(torch.arange(21), torch.tensor(arrays["semantic_label"]))
        scores = classifier.class_scores([logits, other.flip(-1)], size, named)
    else:
        cams = torch.zeros(20, height, width, dtype=dtype)
        for tag in (3, 8, 14):
            cams[tag] = torch.tensor(arrays[f"cam_{tag}"])
        scores = classifier.cam_scores(cams)
    tolerance = (1e-9, 1e-12) if kind == "f64" else (1e-3, 1e-5)
    close(scores, arrays[f"scores_small_{kind}"], *tolerance)
    close(classifier.spread(scores, steps), arrays[f"cam_rw_{kind}"], *tolerance)
    if kind == "f64":
        close(affinities, arrays["aff_f64"], *tolerance)
        close(steps, arrays["trans_mat_f64_as_f32"], 1e-6, 1e-8)


@precisions
@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_retrieval(count, kind, dtype):
    arrays, _ = golden("spml_topk_retrieval")
    queries, prototypes = (torch.tensor(arrays[name], dtype=dtype) for name in ("query", "memory"))
    labels = torch.tensor(arrays["memory_label"]).long()[classifier.nearest(queries, prototypes, count)]
    assert np.array_equal(labels, arrays[f"top{count}_labels_{kind}"])
    assert np.array_equal(classifier.shares(labels, 21).argmax(1), arrays[f"top{count}_majority_{kind}"])


@precisions
def test_retrieval_for_pixels(kind, dtype):
    arrays, _ = golden("spml_topk_retrieval")
    _, own = torch.tensor(arrays["cluster_index"]).unique(return_inverse=True)
    segments = cutting.directions(torch.tensor(arrays["cluster_embedding"], dtype=dtype), own, int(own.max()) + 1)
    found = classifier.nearest(segments, torch.tensor(arrays["memory"], dtype=dtype))
    labels = torch.tensor(arrays["memory_label"]).long()[found]
    assert np.array_equal(labels[own], arrays[f"pixel_top20_{kind}"])
    assert np.array_equal(classifier.shares(labels, 21).argmax(1)[own], arrays[f"pixel_prediction_{kind}"])
