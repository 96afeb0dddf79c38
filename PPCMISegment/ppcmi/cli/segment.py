"""``ppcmi segment``: files, DICOM folders, or directories of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ppcmi.batch import BatchItem, segment_files
from ppcmi.cli.console import megabytes
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups
from ppcmi.errors import ReadError, UsageError
from ppcmi.quantization import Quantization
from ppcmi.reading import find_images_below
from ppcmi.session import LinkOptions, open_link

NAMES = {"done": "done", "skipped": "done before", "failed": "failed"}


def add_parsers(groups: Groups) -> None:
    """The command."""
    parser = add_command(
        groups,
        "segment",
        _segment,
        "Segment volumes privately; each gives NAME.seg.nrrd and NAME.nii.gz. What is done already is skipped.",
        "ppcmi segment --task hippocampus-mr scan.nii.gz dicom-folder/ -o results/",
    )
    add_task(parser)
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="image, DICOM folder, or directory with such"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument("--model", type=int, metavar="N", help="number of the model (default: the active one)")
    parser.add_argument(
        "--quantization",
        choices=[str(q) for q in Quantization],
        default=str(Quantization.I8),
        help="bytes a value on the way (default: i8, one)",
    )
    parser.add_argument("--in-flight", type=int, default=4, metavar="N", help="requests under way at once (default: 4)")


def _segment(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    if not 1 <= options.in_flight <= 64:
        raise UsageError("--in-flight is a number from 1 to 64.")
    images = _images(options.inputs, options.output)
    choices = LinkOptions(
        options.model, Quantization(options.quantization), device=command.device(), in_flight=options.in_flight
    )
    console.progress("asking the server for the model")
    link = open_link(site, site.task(options.task), site.client(), choices)
    outcomes: Counter[str] = Counter()
    exit_code = 0
    for item in segment_files(images, link, options.output):
        if item.error is not None:
            console.remark(f"ppcmi: {item.name}: {item.error}")
            exit_code = exit_code or item.error.exit_code
        if item.outcome is not None:
            outcomes[item.outcome] += 1
            console.result(_line(item))
        elif item.progress is not None:
            step = item.progress
            console.progress(f"{item.number}/{item.total} {item.name}: {step.done}/{step.total} slices")
    counts = [f"{outcomes[outcome]} {name}" for outcome, name in NAMES.items() if outcomes[outcome]]
    console.result(f"{', '.join(counts)}; model {link.model}, profile {link.profile}; results in {options.output}")
    return exit_code


def _images(sources: Sequence[Path], output: Path) -> list[Path]:
    """Every image of the sources; an error of one says which, as several may have been given."""
    images: list[Path] = []
    for source in sources:
        try:
            images += find_images_below(source, without=output)
        except ReadError as error:
            raise ReadError(f"{source}: {error}") from error
    return images


def _line(item: BatchItem) -> str:
    """A finished volume's line."""
    start = f"{item.name}  {NAMES[item.outcome or 'failed']}"
    if item.outcome != "done" or item.progress is None:
        return start
    sent, received = megabytes(item.progress.bytes_sent), megabytes(item.progress.bytes_received)
    return f"{start}  {item.seconds:.1f} s  {sent} sent  {received} received"
