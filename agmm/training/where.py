"""Where a training happens: folders and device, none of which changes its result."""

from dataclasses import dataclass
from pathlib import Path

from agmm.data import sets
from agmm.data.split import Split
from agmm.training.run import Run


@dataclass(frozen=True)
class Where:
    """Folders and device of trainings.

    Attributes
    ----------
    results : Path
        Folder that holds ``<preset>/runs/<id>``, and ``cache`` for generated data and simulated labels.
    data_root : Path, optional
        Folder of the data sets; the embedded ones need none.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; ``"auto"`` takes a GPU where there is one.
    keep_decoded : bool
        Whether the processes that read images keep them decoded in a file of the cache, where it fits.
    """

    results: Path = Path("results")
    data_root: Path | None = None
    device: str = "auto"
    keep_decoded: bool = True

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
