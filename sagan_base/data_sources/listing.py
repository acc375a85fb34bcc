"""A folder of picture files, one sub-folder a class, with or without train/ and test/ above the classes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from sagan_base.data_sources.pictures import SUFFIXES
from sagan_base.files import check_name, user_path

TEST_FOLDERS = ("test", "val", "validation")
SPLIT_NAMES = {"train", "training", "valid", "dev", "eval", "testing", *TEST_FOLDERS}  # as other programs call them


@dataclass(frozen=True)
class Listing:
    """The picture files of one split: ``labels[i]`` is the index in ``class_names`` of ``files[i]``."""

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was left out, and what may not be meant


def list_folder(path: str | Path, split: str) -> Listing:
    """List a folder's pictures, sorted by class and name; hidden files and files of other kinds are passed over.

    With a sub-folder ``train`` that holds folders, or beside which are test folders at most, that is the training
    split, and ``test`` (or ``val``) the test split, whose classes must be among the training ones. Otherwise everything
    is the training split. Pictures that lie in the folder itself, with no class folder beside them, are one class.
    Links are followed, and no folder is looked into twice.

    Raises:
        ValueError: no such folder, no pictures, or no such split.
    """
    root = user_path(path)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; give an existing one, with one sub-folder of images a class")
    if root.stat().st_dev in _SYSTEM:
        raise ValueError(f"{root} shows the system's state, no pictures; give a folder of images")
    names = {folder.name for folder in _sub_folders(root)}
    if "train" in names and (_sub_folders(root / "train") or names <= {"train", *TEST_FOLDERS}):
        return list_split_folder(root, split)
    if split != "train":
        raise ValueError(
            f"{root} has no test split; lay it out as {root.name}/train/CLASS/ and {root.name}/test/CLASS/"
        )
    return _list_classes(root, root.name)


def list_split_folder(path: str | Path, split: str) -> Listing:
    """List the training or the test split of a folder laid out like ImageNet, train/CLASS/ and val/CLASS/.

    Raises:
        ValueError: no such folder, no pictures, no such split, or pictures that lie outside class folders.
    """
    root = user_path(path)
    if not (root / "train").is_dir():
        raise ValueError(f"{root} has no folder train; give the folder that holds train/CLASS/ (and val/CLASS/)")
    training = _list_classes(root / "train", root.name)
    if split != "train":
        return _list_test_split(root, training)
    beside = sorted({folder.name for folder in _sub_folders(root)} - {"train", *TEST_FOLDERS})
    note = f"{root / 'train'} is the training data; the folders beside it are left out: {_some(beside)}"
    return replace(training, notes=(*training.notes, note)) if beside else training


def _list_test_split(root: Path, training: Listing) -> Listing:
    folder = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise ValueError(f"{root} has no test split; add a folder {root / 'test'} with one sub-folder a class")
    test = _list_classes(folder, root.name)
    unknown = sorted(set(test.class_names) - set(training.class_names))
    if unknown:
        raise ValueError(
            f"{folder} has classes that {root / 'train'} lacks: {', '.join(unknown[:5])}; "
            "it needs the same sub-folders, with the images inside"
        )
    renumber = {label: training.class_names.index(name) for label, name in enumerate(test.class_names)}
    return Listing(folder, test.files, tuple(renumber[y] for y in test.labels), training.class_names, test.notes)


def _list_classes(root: Path, name: str) -> Listing:
    """A class a sub-folder with pictures; without any, the pictures in ``root`` itself are the one class ``name``."""
    by_class = {folder.name: _pictures_below(folder, root) for folder in _sub_folders(root)}
    named = {name: files for name, files in by_class.items() if files}
    loose = tuple(sorted(p for p in root.iterdir() if _is_picture(p)))
    notes = []
    if empty := sorted(set(by_class) - set(named)):
        notes.append(f"sub-folders without images, ignored: {_some(empty)}")
    if broken := sorted(p.name for p in root.iterdir() if p.is_symlink() and not p.exists()):
        notes.append(f"links to nothing, ignored: {_some(broken)}")
    if splits := [name for name in named if name.lower() in SPLIT_NAMES]:
        notes.append(
            f"sub-folders that are called like splits are taken as classes: {_some(splits)}; if they are splits, "
            f"lay them out as {root.name}/train/CLASS/ and {root.name}/test/CLASS/"
        )
    if named and loose:
        notes.append(f"{len(loose)} images beside the class folders belong to no class and are left out")
    named = named or {name: loose}
    files = tuple(file for of_class in named.values() for file in of_class)
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{root} has no images; put them into one sub-folder a class ({kinds})")
    for path in (root, *files):
        check_name(str(path))
    labels = tuple(label for label, of_class in enumerate(named.values()) for _ in of_class)
    return Listing(root, files, labels, tuple(named), tuple(notes))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _sub_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures_below(folder: Path, root: Path) -> tuple[Path, ...]:
    """Every picture in the folder and below it; scandir spares a stat call a file."""
    pictures, seen = [], {_identity(above) for above in (root, *root.resolve().parents)}  # links may lead back or up
    for parent, folders, names in os.walk(folder, followlinks=True):
        if _identity(parent) in seen or _identity(parent)[0] in _SYSTEM:
            folders.clear()
            continue
        seen.add(_identity(parent))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        pictures += [
            os.path.join(parent, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES
        ]
    return tuple(Path(p) for p in sorted(pictures))


# Devices of the folders in which the system shows its own state; links in them lead everywhere.
_SYSTEM = {os.stat(path).st_dev for path in ("/proc", "/sys", "/dev") if os.path.isdir(path)} - {os.stat("/").st_dev}


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino
