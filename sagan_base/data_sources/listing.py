"""A folder of picture files, one sub-folder a class, with or without train/ and test/ above the classes."""

import os
from dataclasses import dataclass
from pathlib import Path

from sagan_base.data_sources.pictures import SUFFIXES

TEST_FOLDERS = ("test", "val", "validation")


@dataclass(frozen=True)
class Listing:
    """The picture files of one split: ``labels[i]`` is the index in ``class_names`` of ``files[i]``."""

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    ignored: tuple[str, ...] = ()  # sub-folders without a single picture
    loose: int = 0  # pictures beside the class folders, which belong to no class


def list_folder(path: str | Path, split: str) -> Listing:
    """List a folder's pictures, sorted by class and name; hidden files and files of other kinds are passed over.

    With a sub-folder ``train`` that holds folders, that is the training split, and ``test`` (or ``val``) the test
    split, whose classes must be among the training ones. Otherwise everything is the training split. Pictures that
    lie in the folder itself, with no class folder beside them, are one class.

    Raises:
        ValueError: no such folder, no pictures, or no such split.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"no folder {root}; give an existing one, with one sub-folder of images a class")
    if (root / "train").is_dir() and _sub_folders(root / "train"):
        return list_split_folder(root, split)
    if split != "train":
        raise ValueError(
            f"{root} has no test split; lay it out as {root.name}/train/CLASS/ and {root.name}/test/CLASS/"
        )
    return _list_classes(root)


def list_split_folder(path: str | Path, split: str) -> Listing:
    """List the training or the test split of a folder laid out like ImageNet, train/CLASS/ and val/CLASS/.

    Raises:
        ValueError: no such folder, no pictures, no such split, or pictures that lie outside class folders.
    """
    root = Path(path).expanduser()
    if not (root / "train").is_dir():
        raise ValueError(f"{root} has no folder train; give the folder that holds train/CLASS/ (and val/CLASS/)")
    training = _list_classes(root / "train")
    return training if split == "train" else _list_test_split(root, training)


def _list_test_split(root: Path, training: Listing) -> Listing:
    folder = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise ValueError(f"{root} has no test split; add a folder {root / 'test'} with one sub-folder a class")
    test = _list_classes(folder)
    unknown = sorted(set(test.class_names) - set(training.class_names))
    if unknown:
        raise ValueError(
            f"{folder} has classes that {root / 'train'} lacks: {', '.join(unknown[:5])}; "
            "it needs the same sub-folders, with the images inside"
        )
    renumber = {label: training.class_names.index(name) for label, name in enumerate(test.class_names)}
    return Listing(folder, test.files, tuple(renumber[y] for y in test.labels), training.class_names, test.ignored)


def _list_classes(root: Path) -> Listing:
    by_class = {folder.name: _pictures_below(folder) for folder in _sub_folders(root)}
    named = {name: files for name, files in by_class.items() if files}
    if not named:
        named = {root.name: tuple(sorted(p for p in root.iterdir() if _is_picture(p)))}
    files = tuple(file for of_class in named.values() for file in of_class)
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{root} has no images; put them into one sub-folder a class ({kinds})")
    labels = tuple(label for label, of_class in enumerate(named.values()) for _ in of_class)
    loose = 0 if not any(by_class.values()) else sum(map(_is_picture, root.iterdir()))
    return Listing(root, files, labels, tuple(named), tuple(sorted(set(by_class) - set(named))), loose)


def _sub_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures_below(folder: Path) -> tuple[Path, ...]:
    """Every picture in the folder and below it; scandir spares a stat call a file."""
    pictures = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        pictures += [
            os.path.join(parent, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES
        ]
    return tuple(Path(p) for p in sorted(pictures))
