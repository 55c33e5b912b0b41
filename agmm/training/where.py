"""Folders and device of trainings, which do not change results, and the data that a training works with."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from agmm import labels
from agmm.data import sets
from agmm.data.split import Arrays, Split
from agmm.training.run import Run


@dataclass(frozen=True)
class Where:
    """Folders and device of trainings."""

    results: Path = Path("results")  # holds <preset>/runs/<id>, and cache for generated data and simulated labels
    data_root: Path | None = None  # folder of the data sets; the embedded ones need none
    device: str = "auto"  # ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; ``"auto"`` takes a GPU where there is one
    keep_decoded: bool = True  # whether processes that read images keep them decoded in a file, where it fits

    @property
    def cache(self) -> Path:
        """Folder of what can be made again."""
        return self.results / "cache"

    def load(self, run: Run, split: str) -> Split:
        """Return the split ``"train"``, ``"pretrain"`` or ``"test"`` of a run's data set."""
        count = run.test_images if split == "test" else run.train_images
        size, root = run.image_size, self.data_root
        return sets.load(run.dataset, split, count=count, size=size, data_root=root, cache=self.cache)


def at(
    results: str | Path = "results",
    data_root: str | Path | None = None,
    device: str = "auto",
    keep_decoded: bool = True,
) -> Where:
    """Return a `Where` from paths that may be strings; an empty ``data_root`` is none."""
    return Where(Path(results), Path(data_root) if data_root else None, device, keep_decoded)


def label_sources(runs: Iterable[Run], where: Where) -> list[str]:
    """Say where the labels of runs come from, a line for each kind on public data; raise where they cannot be had."""
    splits: dict[tuple[str, tuple[int, int] | None], Split] = {}
    lines: dict[str, None] = {}
    for run in runs:
        if run.trained is not None:
            continue
        if run.dataset not in sets.PUBLIC:
            lines[f"labels of {run.dataset}: simulated from dense masks, seed = the run's"] = None
            continue
        if (key := (run.dataset, run.image_size)) not in splits:
            splits[key] = where.load(run, "train")
        cams = f"class activation maps of run {run.cams_of.id}" if run.cams_of is not None else ""
        lines[label_line(run, replace(splits[key], cams_from=cams))] = None
    return list(lines)


def label_line(run: Run, split: Split) -> str:
    """Say where the labels of a run on a split come from, in a line for plans and logs."""
    options = dict(run.label_options)
    source = sets.label_source(split, run.labels, options)
    drawn = [f"{name} {value}" for name, value in options.items() if name != "source" and run.labels != "tags"]
    how = f" ({', '.join(drawn)})" if drawn and not source.startswith("published") else ""
    seed = ", seed = the run's" if source.startswith("simulated") else ""
    title = sets.PUBLIC[run.dataset].title if run.dataset in sets.PUBLIC else run.dataset
    return f"labels: {source}" if run.dataset == "own" else f"labels: {run.labels}{how} of {title}: {source}{seed}"


@dataclass(frozen=True, eq=False)
class Context:
    """Run, place, images and labels of one training.

    ``data`` are its training images, with class activation maps where the labels are made of these, and ``sparse``
    their weak labels, (H, W) uint8 arrays. The tags (N, K) bool are None where labels neither are nor come from tags.
    """

    run: Run
    where: Where
    device: torch.device
    data: Split
    test: Split
    sparse: Arrays
    image_tags: np.ndarray | None

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return self.run.folder(self.where.results)

    def image_classes(self, part: slice = slice(None)) -> np.ndarray:
        """Return the classes (N, K) that annotations name: the image tags where there are any, else from the labels."""
        if self.image_tags is not None:
            return self.image_tags[part]
        return np.stack([labels.image_classes(label, self.data.num_classes) for label in self.sparse[part]])
