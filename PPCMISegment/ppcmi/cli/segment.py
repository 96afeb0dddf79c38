"""``ppcmi segment``: files, DICOM folders, or directories of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcmi.batch import BatchItem, segment_files
from ppcmi.cli.console import megabytes
from ppcmi.cli.options import Command, Parser, add_command, add_task
from ppcmi.errors import PpcmiError, UsageError
from ppcmi.quantization import Quantization
from ppcmi.reading import find_images
from ppcmi.session import LinkOptions, open_link


def add_parsers(groups: argparse._SubParsersAction[Parser]) -> None:
    """The command."""
    parser = add_command(
        groups,
        "segment",
        _segment,
        "Segment volumes privately; each gives NAME.seg.nrrd and NAME.nii.gz. What is done already is skipped.",
        "ppcmi segment --task hippocampus-mr scan.nii.gz dicom-folder/ -o results/",
    )
    add_task(parser)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="image, DICOM folder, or directory of them")
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
    images = [image for source in options.inputs for image in find_images(source)]
    if not images:
        raise UsageError("There is no image in what was given; formats are DICOM, NIfTI, NRRD, MHA, PNG and TIFF.")
    choices = LinkOptions(
        options.model, Quantization(options.quantization), device=command.device(), in_flight=options.in_flight
    )
    link = open_link(site, site.task(options.task), site.client(), choices)
    finished: list[BatchItem] = []
    for item in segment_files(images, link, options.output):
        if item.outcome is not None:
            finished.append(item)
        elif item.progress is not None:
            step = item.progress
            console.progress(f"{item.number}/{item.total} {item.name}: {step.done}/{step.total} slices")
    console.table(["volume", "result", "seconds", "sent", "received"], [_row(item) for item in finished])
    failures = [item for item in finished if item.error is not None]
    for item in failures:
        console.remark(f"ppcmi: {item.name}: {item.error}")
    return _exit_code(failures)


def _row(item: BatchItem) -> list[str]:
    if item.outcome != "done" or item.progress is None:
        return [item.name, "done before" if item.outcome == "skipped" else "failed", "-", "-", "-"]
    sent, received = megabytes(item.progress.bytes_sent), megabytes(item.progress.bytes_received)
    return [item.name, "done", f"{item.seconds:.1f}", sent, received]


def _exit_code(failures: list[BatchItem]) -> int:
    errors: list[PpcmiError] = [item.error for item in failures if item.error is not None]
    return errors[0].exit_code if errors else 0
