"""Segments of several processes: the loss and the gradients of each are those of one process on the joined batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from agmm.codes import UNLABELED
from agmm.rivals.spml import SPML
from agmm.rivals.spml.segments import Prototypes

WORLD, IMAGES, CLASSES, GRID = 2, 4, 3, 8
STEPS = 2


def batch(step: int) -> dict[str, torch.Tensor]:
    """Four images with as many annotated pixels in each, but other classes and ever more regions."""
    random = torch.Generator().manual_seed(step)
    features = torch.randn(IMAGES, 5, GRID, GRID, generator=random, dtype=torch.float64)
    logits = torch.randn(IMAGES, CLASSES, GRID, GRID, generator=random, dtype=torch.float64)
    labels = torch.full((IMAGES, GRID, GRID), UNLABELED)
    regions = torch.zeros(IMAGES, GRID, GRID, dtype=torch.long)
    for image in range(IMAGES):
        labels[image, 1:4] = torch.randint(1 + min(image, 1), (3, GRID), generator=random) + 1 if image < 3 else 2
        regions[image] = torch.arange(GRID)[:, None] % (1 + 2 * image)
    classes = torch.stack([torch.isin(torch.arange(CLASSES), label) for label in labels])
    return {"features": features, "logits": logits, "labels": labels, "image_classes": classes, "regions": regions}


def learned(
    parts: list[dict[str, torch.Tensor]], affinity: str
) -> list[tuple[dict[str, torch.Tensor], torch.Tensor, Prototypes]]:
    """Terms, gradients and what is remembered after each of several steps."""
    spml, found = SPML(CLASSES, lambda_a=0.7, clusters=(2, 2), threshold=0.5, affinity=affinity), []
    for part in parts:
        features = part["features"].requires_grad_()
        out = spml(**part)
        out.loss.backward()
        terms = {"loss": out.loss.detach()} | {name: term.detach() for name, term in out.terms.items()}
        found.append((terms, features.grad, spml.remembered[0]))
    return found


def share(step: int, rank: int) -> dict[str, torch.Tensor]:
    return {name: whole.chunk(WORLD)[rank].clone() for name, whole in batch(step).items()}


def process(rank: int, folder: str, affinity: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    found = learned([share(step, rank) for step in range(STEPS)], affinity)
    alone = share(STEPS, rank)
    if rank:
        alone["labels"] = torch.full_like(alone["labels"], UNLABELED)
    found += learned([alone], affinity)
    torch.save([(terms, gradient, known.images, known.labels) for terms, gradient, known in found], f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=["image", "batch"])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list]:
    """Where affinity looks, and what each process found."""
    folder = tmp_path_factory.mktemp(request.param)
    mp.spawn(process, (str(folder), request.param), nprocs=WORLD)
    return request.param, [torch.load(Path(folder) / str(rank)) for rank in range(WORLD)]


def test_two_processes_contrast_as_one_does(processes: tuple[str, list]) -> None:
    whole = learned([batch(step) for step in range(STEPS)], processes[0])
    for step, (terms, gradient, known) in enumerate(whole):
        both = [found[step] for found in processes[1]]
        for name, term in terms.items():
            torch.testing.assert_close(sum(one[0][name] for one in both) / WORLD, term)
        torch.testing.assert_close(torch.cat([one[1] for one in both]) / WORLD, gradient)
        for rank, (_, _, images, labels) in enumerate(both):
            # The images of this process come first; all have their own numbers.
            assert images.unique().tolist() == list(range(IMAGES))
            turned = (known.images - rank * IMAGES // WORLD) % IMAGES
            found, expected = torch.stack([images, labels], 1).tolist(), torch.stack([turned, known.labels], 1).tolist()
            assert sorted(found) == sorted(expected)
            assert images.tolist() == sorted(images.tolist())


def test_a_process_without_annotation_takes_part(processes: tuple[str, list]) -> None:
    terms = [found[STEPS][0] for found in processes[1]]
    assert terms[0]["annotation"] > 0
    assert terms[1]["annotation"] == 0
    assert all(torch.isfinite(found[STEPS][1]).all() for found in processes[1])
