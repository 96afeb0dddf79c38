"""What a batch may write to: never over an image, labels of a data folder, or files that no run of its own wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ppcmi.batch_images import BatchImage
from ppcmi.batch_manifest import Manifest
from ppcmi.batch_report import PICTURES, REPORT
from ppcmi.errors import WriteError
from ppcmi.label_table import ENDING as LABEL_TABLE
from ppcmi.result_files import ALL_ENDINGS
from ppcmi.sources import IMAGES_FOLDER, LABEL_FOLDERS
from ppcmi.task import Task
from ppcmi.wording import counted


def require_no_label_folder(output: Path) -> None:
    """Refuse ``labels/`` beside ``images/``, where results would pass for what somebody drew.

    :raises WriteError: if ``output`` is such a folder, or would be.
    """
    place = output.resolve()
    if place.name.casefold() in LABEL_FOLDERS and (place.parent / IMAGES_FOLDER).is_dir():
        raise WriteError(
            "The folder for the results is the one for the labels of a data folder; choose another folder for the "
            "results."
        )


def require_free_places(
    images: Sequence[BatchImage],
    names: Sequence[str],
    endings: Sequence[str],
    output: Path,
    manifest: Manifest,
    task: Task,
) -> None:
    """Refuse, before anything is written, what would be lost.

    :param names: of the results of ``images``, whose files end in ``endings``.
    :raises WriteError: if a file would take the place of an image, of a file that no run into ``output`` wrote, or of
        another task's result.
    """
    places = {name: list(_files(name, endings, output)) for name in names}
    taken = {file.resolve() for image in images for file in image.source.files}
    if taken & {file.resolve() for files in places.values() for file in files}:
        raise WriteError("A result would take the place of an image; choose another folder for the results.")
    strange = [f for name, files in places.items() if name not in manifest.made_from for f in files if is_there(f)]
    if not manifest.made_from and is_there(output / REPORT):
        strange.append(output / REPORT)
    if strange:
        raise WriteError(
            f"Results would take the place of {counted(len(strange), 'file')} that no run into this folder wrote; "
            "choose another folder for the results, or move what is there."
        )
    if any(_is_of_another_task(name, output, manifest, task) for name in names):
        raise WriteError("The folder has another task's results of these images; choose another folder for this task.")


def is_there(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that is too long for the disk."""
    try:
        return path.exists()
    except OSError:
        return False


def _files(name: str, endings: Sequence[str], output: Path) -> Iterator[Path]:
    yield from (output / f"{name}{ending}" for ending in endings)
    yield output / PICTURES / f"{name}.png"
    if ".nii.gz" in endings:
        yield output / f"{name}{LABEL_TABLE}"


def _is_of_another_task(name: str, output: Path, manifest: Manifest, task: Task) -> bool:
    """A new version of a task makes its results anew."""
    made_with = str(manifest.made_from.get(name, {}).get("task", task.identity))
    other = made_with.rpartition("@")[0] != task.name
    return other and any(is_there(output / f"{name}{ending}") for ending in ALL_ENDINGS)
