"""What a user's folders hold: images, labels of any of the formats and dense masks, listed, and matched by name."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from agmm.codes import UNLABELED
from agmm.data import annotations
from agmm.data.annotations import Annotation, Shape


@dataclass
class Survey:
    """Files in the user's folders, and what is wrong with them."""

    names: tuple[str, ...]  # of the K classes
    images: dict[str, Path]  # by stem, sorted
    masks: dict[str, Path] = field(default_factory=dict)  # by stem, as are the next two
    annotated: dict[str, list[Annotation]] = field(default_factory=dict)  # one for each file
    truth: dict[str, Path] = field(default_factory=dict)  # dense masks
    problems: list[str] = field(default_factory=list)  # a sentence each; nothing is trained as long as there is one
    notes: list[str] = field(default_factory=list)  # sentences about what is odd but no mistake

    @property
    def background(self) -> int | None:
        """The code of the class that is called background, in any case of letters, or None."""
        return next((code for code, name in enumerate(self.names) if name.lower() == "background"), None)

    @property
    def labeled(self) -> list[str]:
        """The stems of the images with labels other than tags."""
        drawn = {stem for stem in self.annotated if any(shape.kind != "tag" for shape in self.shapes(stem))}
        return sorted((self.masks.keys() | drawn) & self.images.keys())

    def shapes(self, stem: str) -> list[Shape]:
        """Return the shapes of an image in all annotation files."""
        return [shape for annotation in self.annotated[stem] for shape in annotation.shapes]


def class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one a line, the first of code 0; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read as class names ({error})"
        raise ValueError(f"{path}: {problem}; write a text file with a name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not 2 <= len(names) <= UNLABELED:
        what = f"names {twice[0]!r} twice" if twice else f"holds {len(names)} class names"
        raise ValueError(f"{path}: {what}; write 2 to {UNLABELED} different names, one a line")
    return names


def images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their stems, sorted; ValueError if there are none, or two with one stem."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images; check --images")
    files: dict[str, Path] = {}
    for path in _files(folder, annotations.SUFFIXES):
        if path.stem in files:
            raise ValueError(f"{path}: a second image beside {files[path.stem].name}; rename or remove one of them")
        files[path.stem] = path
    if not files:
        raise ValueError(f"{folder}: holds no image; images end in {', '.join(annotations.SUFFIXES)}")
    return files


def dense_masks(folder: Path, stems: Container[str]) -> dict[str, Path]:
    """Return the PNG masks of a folder by stem; raise ValueError if there is none of an image in ``stems``."""
    masks = {path.stem: path for path in _files(folder, (".png",)) if path.stem in stems} if folder.is_dir() else {}
    if not masks:
        raise ValueError(f"{folder}: no folder with a PNG mask named as an image; check --truth")
    return masks


def survey(folder: str | Path, labels: str | Path, classes: str | Path, truth: str | Path | None = None) -> Survey:
    """List images, labels and dense truth, and read all annotation files.

    ``labels`` is a folder of masks (PNG) and annotation files, or one such file. It may be the folder of the images;
    then PNG files are images. ``classes`` is a file for `class_names`, ``truth`` a folder of dense masks. ValueError if
    a folder or the class names are missing; all other mistakes are in ``problems``.
    """
    listed = Survey(class_names(Path(classes)), images(Path(folder)))
    problems, labels = listed.problems, Path(labels)
    if not labels.exists():
        raise ValueError(f"{labels}: no such file or folder of labels; check --labels")
    if labels.is_file() or not labels.samefile(folder):
        for path in _files(labels, (".png",)):
            if path.stem in listed.images:
                listed.masks[path.stem] = path
            else:
                problems.append(f"{path}: no image has this name; add the image or remove the mask")
    for path in _files(labels, tuple(annotations.READERS)):
        _read_annotations(listed, path)
    for stem in listed.masks.keys() & listed.annotated.keys():
        other = listed.annotated[stem][0].file
        problems.append(f"{listed.masks[stem]}: its image is also in {other}; keep one of them")
    listed.truth = {} if truth is None else dense_masks(Path(truth), listed.images)
    labeled = listed.labeled
    if not labeled and not problems:
        problems.append(_nothing_labeled(listed, labels))
    tags = listed.annotated.keys() - set(labeled)
    if tags and labeled:
        listed.notes.append(f"{len(tags)} images carry no label on pixels (tags at most) and are not learned from")
    return listed


def _nothing_labeled(listed: Survey, labels: Path) -> str:
    if any(listed.shapes(stem) for stem in listed.annotated):
        return f"{labels}: holds nothing but tags of whole images, from which this cannot learn well; add a few clicks"
    kinds = ", ".join((".png", *annotations.READERS))
    return f"{labels}: labels no image of the folder; files end in {kinds} and name images as they are called"


def _read_annotations(listed: Survey, path: Path) -> None:
    try:
        content = annotations.read(path, listed.names)
    except (ValueError, OSError) as error:
        listed.problems.append(str(error))
        return
    for stem, annotation in content.items():
        if stem in listed.images:  # tools and people may split the work over several files
            listed.annotated.setdefault(stem, []).append(annotation)
        elif annotation.shapes:
            listed.problems.append(f"{path}: labels the image {stem!r}, which is not in the folder of images; add it")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the visible files of a folder with one of the endings, sorted; of a file that file, if it has one."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    return [
        path for path in files if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]
