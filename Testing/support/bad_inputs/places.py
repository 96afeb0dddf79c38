"""Folders, links, devices and names."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ppcmi.volume import Volume
from support.bad_inputs.kinds import BadInput, read_as_a_batch_does, small_volume
from support.bad_inputs.nifti_files import nifti
from support.dicom import write_series

VOLUME = small_volume()


def _named(name: str) -> Callable[[Path], Path]:
    return lambda folder: nifti(folder / name)


def _content(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _folder_named_as_a_file(folder: Path) -> Path:
    (folder / "x.nii").mkdir()
    return folder / "x.nii"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "x.nii")
    return folder / "x.nii"


def _fifo_among_images(folder: Path) -> Path:
    os.mkfifo(folder / "a.nii")
    nifti(folder / "b.nii")
    return folder


def _device_link(folder: Path) -> Path:
    (folder / "x.nii").symlink_to("/dev/zero")
    return folder / "x.nii"


def _dead_link(folder: Path) -> Path:
    (folder / "x.nii").symlink_to(folder / "gone.nii")
    return folder / "x.nii"


def _link_to_itself(folder: Path) -> Path:
    (folder / "x.nii").symlink_to(folder / "x.nii")
    return folder / "x.nii"


def _loop_of_folders(folder: Path) -> Path:
    nifti(folder / "x.nii")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    return folder


def _deep_folders(folder: Path) -> Path:
    deep = folder.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    nifti(deep / "x.nii")
    return folder


def _other_files_beside_a_series(folder: Path) -> Path:
    write_series(VOLUME, folder / "series")
    (folder / "series" / "notes.txt").write_text("not an image")
    shutil.copy(folder / "series" / "000.dcm", folder / "series" / ".hidden")
    return folder


def _empty_file_beside_a_series(folder: Path) -> Path:
    write_series(VOLUME, folder / "series")
    (folder / "series" / "empty.dcm").touch()
    return folder


def _read_as_nobody(path: Path) -> Volume:
    """As a user who may not read it; root may read everything."""
    own = os.geteuid()
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        place = Path(shutil.copytree(path.parent, Path(open_to_all) / "x")) / path.name
        place.chmod(0)
        if own == 0:
            os.seteuid(65534)
        try:
            return read_as_a_batch_does(place)
        finally:
            os.seteuid(own)
            place.chmod(0o700)


def _scene(volume_file: str, more: str = "") -> Callable[[Path], Path]:
    """A scene of 3D Slicer's whose volume is in ``volume_file``."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.mrb", "w") as scene:
            scene.writestr(
                "Scene/Scene.mrml",
                f'{more}<MRML><Volume id="v" references="storage:s;"></Volume>'
                f'<VolumeArchetypeStorage id="s" fileName="{volume_file}"></VolumeArchetypeStorage></MRML>',
            )
            scene.writestr("Scene/Data/x.nii", nifti(folder / "member").read_bytes())
        (folder / "member").unlink()
        return folder / "x.mrb"

    return make


def _unreadable_folder(folder: Path) -> Path:
    (folder / "closed").mkdir()
    nifti(folder / "closed" / "x.nii")
    return folder / "closed"


PLACES = (
    BadInput("a NIfTI file that may not be read", _named("x.nii"), "permission", _read_as_nobody),
    BadInput("a NRRD file that may not be read", _content("x.nrrd", b"NRRD0004"), "permission", _read_as_nobody),
    BadInput(
        "a DICOM file that may not be read",
        lambda folder: write_series(VOLUME, folder / "s")[0],
        "permission|opened",
        _read_as_nobody,
    ),
    BadInput("a folder that may not be opened", _unreadable_folder, "permission|opened|no DICOM", _read_as_nobody),
    BadInput("a place where nothing is", lambda folder: folder / "missing.nii", "no image at the place"),
    BadInput("an empty folder", lambda folder: folder, "no DICOM images and no files"),
    BadInput("an empty file", _content("x.nii.gz", b""), "empty"),
    BadInput("text called .nii.gz", _content("x.nii.gz", b"hello\n" * 100), "damaged"),
    BadInput("zeros called .mha", _content("x.mha", bytes(5000)), "damaged"),
    BadInput("zeros called .nrrd", _content("x.nrrd", bytes(5000)), "damaged"),
    BadInput("zeros called .dcm", _content("x.dcm", bytes(5000)), "damaged|DICOM|no image"),
    BadInput("a gzip file of text called .nii.gz", _content("x.nii.gz", gzip.compress(b"hello" * 500)), "damaged"),
    BadInput("a file of no known kind", _content("x.doc", b"%PDF-1.7\n" * 50), "no image|unknown|known"),
    BadInput("a folder called x.nii", _folder_named_as_a_file, "no DICOM images and no files"),
    BadInput("a named pipe", _fifo, "no image at the place"),
    BadInput("a named pipe beside an image", _fifo_among_images, VOLUME),
    BadInput("a link to an endless device", _device_link, "no image at the place"),
    BadInput("a link to nothing", _dead_link, "no image at the place"),
    BadInput("a link to itself", _link_to_itself, "no image at the place"),
    BadInput("folders that contain themselves by a link", _loop_of_folders, VOLUME),
    BadInput("an image sixty folders deep", _deep_folders, VOLUME),
    BadInput("a scene of 3D Slicer", _scene("Data/x.nii"), VOLUME),
    BadInput("a scene whose volume is /etc/passwd", _scene("/etc/passwd"), "does not hold"),
    BadInput("a scene whose volume is two folders above", _scene("../../x.nii"), "does not hold"),
    BadInput("a scene with a document type", _scene("Data/x.nii", '<!DOCTYPE a [<!ENTITY b "c">]>'), "damaged"),
    BadInput("text called .mrb", _content("x.mrb", b"hello" * 100), "damaged"),
    BadInput("a name in Unicode", _named("Größe 検査 🧠.nii.gz"), VOLUME),
    BadInput("a name with a line break", _named("a\nb.nii.gz"), VOLUME),
    BadInput("a name that begins with a dash", _named("-o.nii"), VOLUME),
    BadInput("a name of 250 characters", _named("x" * 246 + ".nii"), VOLUME),
    BadInput("an ending in capitals", _named("X.NII.GZ"), VOLUME),
    BadInput("other files beside a series", _other_files_beside_a_series, VOLUME),
    BadInput("an empty DICOM file beside a series", _empty_file_beside_a_series, "damaged"),
)
