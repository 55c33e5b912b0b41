"""SPML from image tags and boxes: class activation maps of another run, and segments that vote (Algorithm 2)."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import agmm
from agmm.codes import UNLABELED, VOID
from agmm.data import image_files, sets
from agmm.data.public import label_files
from agmm.data.split import Arrays, OnDemand
from agmm.data.synthetic import shapes
from agmm.rivals.spml import FirstStage, SPMLClassifier
from agmm.rivals.spml.classifier import in_memory
from agmm.training import pseudo_labels, sweep
from agmm.training.presets import PRESETS
from agmm.training.where import Where
from tests.helpers import saved_weights

CPU = torch.device("cpu")
SMOKE = PRESETS["smoke"]


def test_image_tags_take_four_trainings_and_boxes_three() -> None:
    run = PRESETS["quick"].spml("cam")
    names = [(one.method, one.labels) for one in sweep.distinct([run])]
    stages = [("ImageTags", "tags"), ("Baseline", "tags"), ("SPML", "cam"), *[("SPMLClassifier", "cam")] * 2]
    assert names == stages
    assert dict(run.teacher.options)["first"] == "cam"
    assert "first" not in dict(run.options)
    assert run.teacher.teacher == PRESETS["quick"].at("cam", "SPML")
    boxes = sweep.distinct([PRESETS["quick"].spml("boxcam")])
    assert [(one.method, one.labels) for one in boxes[2:]] == [("SPML", "boxcam"), ("SPMLClassifier", "boxcam")]


def test_maps_are_those_of_the_run_on_image_tags_whatever_stage_asks() -> None:
    preset = PRESETS["quick"]
    for run in (preset.at("cam", seed=3), preset.spml("boxcam", seed=3), preset.spml("cam", seed=3)):
        for stage in (run, run.tested(crf="deeplab_64"), run.second_stage()):
            assert stage.cams_of.id == preset.at("tags", seed=3).id


def test_runs_on_maps_are_told_apart_by_whose_maps_they_are() -> None:
    plain = PRESETS["quick"].at("cam")
    other = plain.with_cams_of(PRESETS["quick"].at("tags", "AGMM"))
    from_files = replace(plain, cam_changes=())
    assert from_files.cams_of is None
    assert len({plain.id, other.id, from_files.id}) == 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, agmm.Run, agmm.Run]:
    results = tmp_path_factory.mktemp("results")
    tags, boxes = (SMOKE.spml(kind, init="scratch") for kind in ("cam", "boxcam"))
    for run in (tags, boxes):
        agmm.run(run, results=results)
    return results, tags, boxes


def test_image_tags_and_boxes_are_learned_from(trained: tuple[Path, agmm.Run, agmm.Run]) -> None:
    results, *runs = trained
    for run, drawn in zip(runs, ("cam from", "boxcam from boxes of dense masks and"), strict=True):
        chain = [stage for stage in sweep.distinct([run]) if stage.labels == run.labels]
        source = f"{drawn} class activation maps of run {run.cams_of.id}"
        assert {agmm.training.result.load_result(stage, results).details["label_source"] for stage in chain} == {source}
        first, *others = (saved_weights(stage, results) for stage in chain)
        for weights in others:
            assert all(name.startswith("head.classifier.") for name in first if not first[name].equal(weights[name]))
    tags, boxes = (agmm.training.result.load_result(run, results).details for run in runs)
    assert tags["labeled_share"] == 1
    assert boxes["labeled_share"] < 1


def test_maps_on_disk_are_those_in_memory(trained: tuple[Path, agmm.Run, agmm.Run]) -> None:
    """Halves in files that the readers of published maps read."""
    results, run, _ = trained
    data = shapes.SHAPES.make("train", 5)
    apart = replace(data, images=OnDemand(data.images.__getitem__, range(5)))
    kept, read = (pseudo_labels.with_cams(run, split, Where(results), CPU).cams for split in (data, apart))
    tags = sets.image_tags(data)
    for number, (first, second) in enumerate(zip(kept, read, strict=True)):
        assert [*first] == [*second] == [k for k in np.flatnonzero(tags[number]) if k]
        assert all((first[k] == second[k]).all() for k in first)
    assert max(cam.max() for cams in kept for cam in cams.values()) > 0.5
    files = run.cams_of.folder(results) / "cams"
    label_files.write_cams(files / f"{data.ids[0]}.npy", {1: np.ones((64, 64))})
    again = pseudo_labels.with_cams(run, apart, Where(results), CPU).cams
    assert (again[0][1] == 1).all(), "what is there is not made again"


CORNERS = np.kron(np.arange(4).reshape(2, 2), np.ones((16, 16), int))
COLORS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [120, 120, 120]], np.uint8)


class Colors(torch.nn.Module):
    """Embeddings are colors; the classifier sees class 1 in red, 2 in green, 3 in blue, and else the background."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images - 0.4, torch.cat([torch.full_like(images[:, :1], 0.6), images], 1)


def _scenes() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[int, np.ndarray]]]:
    """Six images of four colors, turned; their truth, tags, and maps, in the first of which two classes change places.

    Red, green and blue are the classes 1, 2 and 3, gray is the background.
    """
    layouts = [np.rot90(CORNERS, turn) for turn in (0, 1, 2, 3, 0, 1)]
    images, truth = np.stack([COLORS[one] for one in layouts]), np.stack([(one + 1) % 4 for one in layouts])
    maps = [{k: np.where(one == k, 0.9, 0.05) for k in (1, 2, 3)} for one in truth]
    maps[0] = {1: maps[0][2], 2: maps[0][1], 3: maps[0][3]}
    return images, truth, np.ones((6, 4), bool), maps


def _labels(objective: SPMLClassifier, keep=in_memory, **changes: object) -> np.ndarray:
    images, truth, tags, maps = _scenes()
    sparse = np.full(truth.shape, UNLABELED, np.uint8)
    sparse[:, :2] = VOID
    options = {"sparse": sparse, "image_classes": tags, "cams": maps} | changes
    return np.stack(list(objective.pseudo_labels(FirstStage(Colors(), CPU), images, keep=keep, **options)))


def _inside(made: np.ndarray) -> list[np.ndarray]:
    """Without void and the borders between corners, where clusters of the first iteration stay."""
    return [made[:, 2:15, :15], made[:, 2:15, 17:], made[:, 17:, :15], made[:, 17:, 17:]]


VOTED = partial(SPMLClassifier, 4, walk="none", stride=1, crf="", first="cam", cells=(4, 4), scales=(1.0, 0.5))


def test_segments_of_other_images_outvote_a_wrong_map() -> None:
    truth = _scenes()[1]
    alone = _labels(VOTED())
    wrong = [(a != b).mean((1, 2)) for a, b in zip(_inside(alone), _inside(truth), strict=True)]
    assert np.sum(wrong, axis=0).tolist() == [2, 0, 0, 0, 0, 0], "the map of the first image is wrong in two corners"
    for scales in ((1.0,), (0.5, 1.0, 2.0)):
        voted = _labels(VOTED(neighbors=15, query_scales=scales))
        assert (voted[:, :2] == VOID).all()
        for made, expected in zip(_inside(voted), _inside(truth), strict=True):
            assert (made == expected).all()


def test_votes_are_of_the_classes_that_an_image_may_have() -> None:
    tags = _scenes()[2].copy()
    tags[3, 2] = False
    voted = _labels(VOTED(neighbors=15, query_scales=(1.0,)), image_classes=tags)
    assert 2 not in voted[3]
    assert all(2 in one for one in voted[[0, 1, 2, 4, 5]])


def test_what_a_classifier_predicts_is_voted_on_without_a_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    """One CRF an image: of the votes. From maps there is a second one, of the map."""
    seen: list[int] = []

    def refine(probabilities: torch.Tensor, images: torch.Tensor, parameters: object) -> torch.Tensor:
        torch.testing.assert_close(probabilities.sum(1).amax(), torch.tensor(1.0))
        seen.append(1)
        return probabilities

    monkeypatch.setattr(agmm.evaluation, "refine", refine)
    how = {"crf": "deeplab_64", "query_scales": (1.0,)}
    for first, neighbors, crfs in (("classifier", 0, 6), ("classifier", 5, 6), ("cam", 0, 6), ("cam", 5, 12)):
        seen.clear()
        _labels(VOTED(first=first, neighbors=neighbors, **how))
        assert len(seen) == crfs


def test_labels_on_disk_are_those_in_memory_and_are_not_made_twice(tmp_path: Path) -> None:
    ids = tuple("abcdef")
    objective = VOTED(neighbors=15, query_scales=(1.0,))
    keep = partial(pseudo_labels._png_files, tmp_path, ids)
    images, truth, *_ = _scenes()
    sparse: Arrays = OnDemand(partial(np.full, truth[0].shape), [np.uint8(UNLABELED)] * 6)
    plain = _labels(objective, sparse=np.full(truth.shape, UNLABELED, np.uint8))
    np.testing.assert_array_equal(_labels(objective, keep, sparse=sparse), plain)
    assert {path.name for path in tmp_path.iterdir()} == {"first_labels", "pseudo_labels"}
    image_files.write_index(tmp_path / "pseudo_labels" / "c.png", np.full((32, 32), 7, np.uint8))
    assert (_labels(objective, keep, sparse=sparse)[2] == 7).all()


def test_maps_are_needed_and_options_are_checked() -> None:
    with pytest.raises(ValueError, match="first='cam' needs class activation maps, and there are none; choose first"):
        _labels(VOTED(), cams=None)
    with pytest.raises(ValueError, match="neighbors must be a number of segments, 0 for none, not -1"):
        VOTED(neighbors=-1)
    with pytest.raises(ValueError, match="96 segments are fewer than the 97 neighbors"):
        _labels(VOTED(neighbors=97, scales=(1.0,)))
