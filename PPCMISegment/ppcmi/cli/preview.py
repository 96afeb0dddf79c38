"""``ppcmi preview``: what leaves of a volume, in numbers, and of one slice, in pictures."""

from __future__ import annotations

from pathlib import Path

from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups
from ppcmi.cohort_export import usual_profile
from ppcmi.consortium import ensure_codec
from ppcmi.errors import UsageError
from ppcmi.files import write_atomically
from ppcmi.mosaic import side_by_side
from ppcmi.png import encode_png
from ppcmi.preview import preview_slice
from ppcmi.protection import protection_of
from ppcmi.reading import read_image
from ppcmi.scales import PRIVACY_PROFILES, Profile
from ppcmi.slicing import VolumeSlices
from ppcmi.sources import only_source
from ppcmi.what_leaves import NOTHING_LEAVES, Sending, segmentation_leaves, what_goes, what_stays, who_could_learn_what

HEIGHT = 512


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "preview",
        _preview,
        summary,
        "ppcmi preview --task hippocampus-mr scan.nii.gz -o preview.png",
    )
    add_task(parser)
    parser.add_argument("image", type=Path, metavar="IN", help="image, or folder of DICOM files")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="picture to write, NAME.png")
    parser.add_argument("--slice", type=int, metavar="N", help="which slice, from 0 (default: the middle one)")
    parser.add_argument(
        "--profile", choices=[str(p) for p in PRIVACY_PROFILES], help="privacy profile (default: the task's usual one)"
    )


def _preview(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    part = site.task(options.task)
    codec = ensure_codec(site.client(), part).to(command.device())
    profile = Profile(options.profile) if options.profile else usual_profile(part.membership, codec)
    image = read_image(only_source(options.image))
    part.task.require_modality(image.modality)
    volume = image.volume
    slices = VolumeSlices(volume, part.task)
    index = len(slices) // 2 if options.slice is None else options.slice
    if not 0 <= index < len(slices):
        raise UsageError(f"The volume has slices 0 to {len(slices) - 1}; choose one of them by --slice.")
    (picture,) = slices[index : index + 1]
    preview = preview_slice(picture, codec, protection_of(site, part, codec.fingerprint, profile))
    pictures = (preview.image, preview.leaving, preview.server.picture)
    write_atomically(options.output, encode_png(side_by_side(pictures, HEIGHT)))
    if not part.asks_server(profile):
        console.result(NOTHING_LEAVES + " If it were asked:")
    leaving = segmentation_leaves([volume.geometry], part.task, Sending.of(part, profile))
    for sentence in (*what_goes(leaving), what_stays(leaving), *who_could_learn_what(leaving)):
        console.result(sentence)
    server, outsider = preview.server, preview.outsider
    console.result(
        f"The server's best view of slice {index} without the inner key correlates {server.correlation:.2f} with the "
        f"image ({server.name}); the same attempt on what is sent, without any key, {outsider.correlation:.2f}."
    )
    console.figures(
        "preview", {"slice": index, "server": server.correlation, "outsider": outsider.correlation, "view": server.name}
    )
    return 0
