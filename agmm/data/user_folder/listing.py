"""What a user's folders hold: images, labels of any of the formats and dense masks, listed, and matched by name."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agmm.codes import UNLABELED
from agmm.data import annotations, image_files
from agmm.data.annotations import Annotation, Shape
from agmm.data.user_folder import matching, pictures

NO_IMAGES = (".txt", ".md", ".db", ".ini")  # endings of files that nobody takes for a picture


@dataclass
class Survey:
    """Files in the user's folders, and what is wrong with them."""

    names: tuple[str, ...]  # of the K classes
    images: dict[str, Path]  # by id (`images`), sorted
    masks: dict[str, Path] = field(default_factory=dict)  # by id, as are the next two
    annotated: dict[str, list[Annotation]] = field(default_factory=dict)  # one for each file
    truth: dict[str, Path] = field(default_factory=dict)  # dense masks
    problems: list[str] = field(default_factory=list)  # a sentence each; nothing is trained as long as there is one
    notes: list[str] = field(default_factory=list)  # sentences about what is odd but no mistake
    fill_background: bool = False  # whether what no area of an image covers is background
    scales: pictures.Scales = field(default_factory=dict)  # of the images

    @property
    def background(self) -> int | None:
        """The code of the class that is called background (or _background_), in any case of letters, or None."""
        return next((code for code, name in enumerate(self.names) if name.lower().strip("_") == "background"), None)

    @property
    def labeled(self) -> list[str]:
        """The ids of the images with labels other than tags."""
        drawn = {id for id in self.annotated if any(shape.kind != "tag" for shape in self.shapes(id))}
        return sorted((self.masks.keys() | drawn) & self.images.keys())

    def shapes(self, id: str) -> list[Shape]:
        """Return the shapes of an image in all annotation files."""
        return [shape for annotation in self.annotated[id] for shape in annotation.shapes]


def class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one a line, the first of code 0.

    Empty lines do not count, nor does `annotations.IGNORE` as the first one, which labelme's lists begin with.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read as class names ({error})"
        raise ValueError(f"{path}: {problem}; write a text file with a name a line") from error
    names = tuple(annotations.plain(line) for line in lines if line.strip())
    names = names[names[:1] == (annotations.IGNORE,) :]
    if annotations.IGNORE in names:
        raise ValueError(f"{path}: {annotations.IGNORE} is no class and has no code; let it be the first line, or none")
    alike = Counter("background" if name == "_background_" else name for name in names)
    twice = [name for name, count in alike.items() if count > 1]
    if twice or not 2 <= len(names) <= UNLABELED:
        what = f"names {twice[0]!r} twice" if twice else f"holds {len(names)} class names"
        raise ValueError(f"{path}: {what}; write 2 to {UNLABELED} different names, one a line")
    return names


def images(folder: Path, apart: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the images of a folder, and of the folders in it except those set ``apart``, by their ids, sorted.

    An id is the path below the folder without ending. ValueError if there are none, or two of one id.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images; check --images")
    files: dict[str, Path] = {}
    for path in matching.below(folder, apart):
        if path.suffix.lower() in annotations.SUFFIXES:
            other = files.setdefault(matching.id_of(path.relative_to(folder)), path)
            if other != path:
                raise ValueError(f"{path}: a second image beside {other.name}; rename or remove one of them")
    if not files:
        raise ValueError(f"{folder}: holds no image; images end in {', '.join(annotations.SUFFIXES)}")
    return files


def skipped(folder: Path, apart: Iterable[Path] = ()) -> Iterator[str]:
    """Yield a sentence about the files among the images that are neither images nor labels, if there are any."""
    known = (*annotations.SUFFIXES, *annotations.READERS, *NO_IMAGES)
    others = [path for path in matching.below(folder, apart) if path.suffix.lower() not in known]
    if others:
        what = f"{len(others)} files are left out, {others[0]} first"
        yield f"{what}: images end in {', '.join(annotations.SUFFIXES)}; save pictures of other kinds as PNG or TIFF"


def dense_masks(folder: Path, of: Mapping[str, Path], images: Path) -> dict[str, Path]:
    """Return the PNG masks in a folder of the images ``of`` another one, by id; raise ValueError if there is none."""
    masks, _, problems = _masks(folder, of, images)
    if problems:
        raise ValueError(problems[0])
    if not masks:
        raise ValueError(f"{folder}: no folder with a PNG mask named as an image; check --truth")
    return masks


def _masks(folder: Path, of: Mapping[str, Path], images: Path) -> tuple[dict[str, Path], list[Path], list[str]]:
    """Return masks by id, those of no image, and sentences about those that may be of two or are not the only one."""
    masks: dict[str, Path] = {}
    ids, others, problems = matching.by_end(of), [], []
    for path in _files(folder, (".png",), of, images):
        found = matching.meant(_own_name(path, folder), ids)
        if not found:
            others.append(path)
        elif len(found) > 1:
            problems.append(f"{path}: may be the mask of {' or '.join(found)}; put it into a folder of the same name")
        elif (other := masks.setdefault(found[0], path)) != path:
            problems.append(f"{path}: a second mask of the image {found[0]!r} beside {other}; remove one of them")
    return masks, others, problems


def survey(
    folder: str | Path,
    labels: str | Path,
    classes: str | Path,
    truth: str | Path | None = None,
    fill_background: bool = False,
) -> Survey:
    """List images, labels and dense truth, and read all annotation files.

    ``labels`` is a folder of masks (PNG) and annotation files, or one such file. It may be the folder of the images;
    then PNG files are images. ``classes`` is a file for `class_names`, ``truth`` a folder of dense masks. With
    ``fill_background`` what no polygon, mask or box covers is background, in images that have one. ValueError if a
    folder, the class names or the background are missing; all other mistakes are in ``problems``.
    """
    folder, labels = Path(folder), Path(labels)
    apart = [Path(path) for path in (labels, truth) if path and not _same(path, folder)]
    listed = Survey(class_names(Path(classes)), images(folder, apart), fill_background=fill_background)
    if fill_background and listed.background is None:
        raise ValueError(f"{classes}: names no class background, which --fill-background needs; add it there")
    problems = listed.problems
    if not labels.exists():
        raise ValueError(f"{labels}: no such file or folder of labels; check --labels")
    if not _same(labels, folder):
        listed.masks, others, doubts = _masks(labels, listed.images, folder)
        problems += [f"{path}: no image has this name; add the image or remove the mask" for path in others] + doubts
        listed.notes += _unread(listed.images, labels, folder)
    _read_annotations(listed, labels, folder)
    for id in listed.masks.keys() & listed.annotated.keys():
        other = listed.annotated[id][0].file
        problems.append(f"{listed.masks[id]}: its image is also in {other}; keep one of them")
    listed.truth = {} if truth is None else dense_masks(Path(truth), listed.images, folder)
    labeled = listed.labeled
    if not labeled and not problems:
        problems.append(_nothing_labeled(listed, labels))
    tags = listed.annotated.keys() - set(labeled)
    if tags and labeled:
        listed.notes.append(f"{len(tags)} images carry no label on pixels (tags at most) and are not learned from")
    listed.notes += _other_palettes(listed.masks.values(), 3 * len(listed.names))
    headers = pictures.headers(listed.images.values())
    listed.scales = pictures.scales(headers)
    drawn = {listed.images[id]: listed.annotated.get(id, ()) for id in sorted({*labeled, *listed.truth})}
    listed.notes += [*skipped(folder, apart), *pictures.notes(headers, listed.scales, drawn)]
    return listed


def _nothing_labeled(listed: Survey, labels: Path) -> str:
    if any(map(listed.shapes, listed.annotated)):
        return f"{labels}: holds nothing but tags of whole images, from which this cannot learn well; add a few clicks"
    kinds = ", ".join((".png", *annotations.READERS))
    return f"{labels}: labels no image of the folder; files end in {kinds} and name images as they are called"


def _read_annotations(listed: Survey, labels: Path, folder: Path) -> None:
    ids, left_out = matching.by_end(listed.images), defaultdict(list)
    names: dict[str, str] = {}
    for path in _files(labels, tuple(annotations.READERS), listed.images, folder):
        try:
            content = annotations.read(path, listed.names, listed.problems)
        except (ValueError, OSError) as error:
            listed.problems.append(str(error))
            continue
        for called, annotation in content.items():
            name = matching.plain(called if annotation.beside is None else _own_name(path, labels))
            found, other = (matching.meant(text, ids) for text in (name, annotation.beside or ""))
            problem = ""
            if len(found) > 1 and annotation.shapes:
                problem = f"labels {name!r}, which may be {' or '.join(found)}; write its path below --images"
            elif not found and annotation.shapes:
                problem = f"labels the image {name!r}, which is not in the folder of images; add it"
            elif len(found) == 1 and other and found[0] not in other:
                problem = f"is named as {found[0]!r}, and its imagePath is of {other[0]!r}; correct one of them"
            elif len(found) == 1 and not matching.agree(before := names.setdefault(found[0], name), name):
                problem = f"{before!r} and {name!r} would both be {listed.images[found[0]]}; name their folders, too"
            elif len(found) == 1:  # tools and people may split the work over several files
                names[found[0]] = max(before, name, key=len)
                listed.annotated.setdefault(found[0], []).append(annotation)
            if problem:
                listed.problems.append(f"{path}: {problem}")
            for what in annotation.notes:
                left_out[what].append(path)
    listed.notes += [f"{len(files)} {what}, in {files[0]} first" for what, files in left_out.items()]
    sources = {id: {one.file for one in labels_of if one.shapes} for id, labels_of in listed.annotated.items()}
    if several := [id for id, files in sources.items() if len(files) > 1]:
        listed.notes.append(f"{len(several)} images have labels in several files, all are drawn; {several[0]} first")


def _unread(of: Mapping[str, Path], labels: Path, images: Path) -> Iterator[str]:
    """Yield a note about what lies in the folder of labels and is not read."""
    folders = {labels / part for path in of.values() for part in path.relative_to(images).parents}
    known = (".png", *annotations.READERS)
    there = [path for path in (labels.iterdir() if labels.is_dir() else ()) if not path.name.startswith(".")]
    left = [path for path in sorted(there) if path not in folders and not _same(path, images)]
    # Other texts are names of classes or colors, but beside an image they are labels of other tools.
    if left := [p for p in left if p.suffix.lower() not in known and (p.suffix != ".txt" or p.stem in of)]:
        what = f"{len(left)} files or folders of {labels} are not read, {left[0].name} first"
        yield f"{what}: masks end in .png, and only folders that are called as those of the images are looked into"


def _other_palettes(masks: Iterable[Path], length: int) -> Iterator[str]:
    """Yield a note if two masks have other colors among the first ``length`` bytes of their palettes."""
    first: tuple[Path, bytes] | None = None
    for path in masks:
        colors = image_files.palette(path)[:length]
        first = first or ((path, colors) if colors else None)
        if first and not (colors.startswith(first[1]) or first[1].startswith(colors)):
            what = f"{path}: its palette has other colors than {first[0]} for the same codes"
            yield f"{what}; only codes count: see whether both follow the order of the class names"
            return


def _same(path: str | Path, folder: Path) -> bool:
    return Path(path).exists() and folder.exists() and folder.samefile(path)


def _own_name(path: Path, folder: Path) -> Path:
    """Return what a mask or labelme file is called in its folder, or alone."""
    return Path(path.stem) if path == folder else path.relative_to(folder).with_suffix("")


def _files(folder: Path, suffixes: Sequence[str], of: Mapping[str, Path], images: Path) -> Iterator[Path]:
    """Yield the visible files with one of the endings in a folder, and in folders in it that are called as the images'.

    ``of`` are images in the folder ``images``. Of a file yield that file, if it has one of the endings.
    """
    folders = sorted({Path(), *(path.parent.relative_to(images) for path in of.values())})
    inner = [sorted((folder / where).iterdir()) for where in folders if (folder / where).is_dir()]
    for path in [folder] if folder.is_file() else itertools.chain(*inner):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            yield path
