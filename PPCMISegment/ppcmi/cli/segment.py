"""``ppcmi segment``: files, DICOM folders, directories of them, lists of them, or a study in an archive."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ppcmi.batch import BatchItem, segment_files
from ppcmi.batch_images import BatchImage, find_batch_images, without_repeats
from ppcmi.batch_manifest import Manifest
from ppcmi.batch_report import write_report
from ppcmi.cli.archive import add_archive, archived_study, with_dicom
from ppcmi.cli.batch_console import show_end, show_item, show_table
from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.pace import Pace
from ppcmi.cli.parsers import Groups
from ppcmi.confidence import ENDING as CONFIDENCE
from ppcmi.dicom.segmentation_out import ENDING as DICOM_SEGMENTATION
from ppcmi.errors import CasesFailedError, ReadError, UsageError, WriteError
from ppcmi.pipeline import PrivateLink, provenance_of
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.result_files import FORMATS
from ppcmi.session import LinkOptions, open_link
from ppcmi.site import SiteProfile
from ppcmi.what_leaves import NOTHING_LEAVES

EXIT_CODES = """\
exit codes:
  0    every volume is segmented
  20   some could not be, the others are; each has its sentence
  2    the command is not right                10   the site's set-up is incomplete
  4    there is nothing to read                11   the server cannot be reached
  6    a result cannot be written              12   the server refuses the site, the task or the model
  130  ended by Ctrl-C or SIGTERM              others are in docs/batch.md
What is finished is kept whatever the code, and a rerun goes on where it was.
"""


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "segment",
        _segment,
        summary,
        "ppcmi segment --task hippocampus-mr scan.nii.gz dicom-folder/ -o results/",
    )
    parser.epilog = f"{parser.epilog}\n\n{EXIT_CODES}"
    add_task(parser)
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="IN", help="image, DICOM folder, directory with such, or a list (CSV)"
    )
    parser.add_argument(
        "--input",
        dest="more_inputs",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="IN",
        help="the same; a list has a column 'image' and perhaps 'name'",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--format",
        dest="formats",
        nargs="+",
        choices=list(FORMATS),
        default=["seg.nrrd", "nii.gz"],
        metavar="F",
        help=f"files of each result, of {', '.join(FORMATS)} (default: seg.nrrd nii.gz)",
    )
    parser.add_argument(
        "--confidence",
        action="store_true",
        help="also write NAME.confidence.nii.gz, how probable the chosen structure is at every voxel",
    )
    parser.add_argument("--model", type=int, metavar="N", help="number of the model (default: the active one)")
    parser.add_argument(
        "--quantization",
        choices=[str(q) for q in Quantization],
        default=str(FOR_MAPPING),
        help="bits a value on the way (default: i4, four; eight in mode paper)",
    )
    parser.add_argument("--in-flight", type=int, default=4, metavar="N", help="requests under way at once (default: 4)")
    add_archive(parser)


def _segment(command: Command) -> int:
    options, console = command.options, command.console
    endings = _endings(options)
    if not 1 <= options.in_flight <= 64:
        raise UsageError("--in-flight is a number from 1 to 64.")
    study = archived_study(options)
    site = command.site()
    if study is None:
        images = _images([*options.inputs, *options.more_inputs], options.output, console)
        finished = _segment_images(images, _link(command, site), endings, command)
    else:
        link = _link(command, site)  # before much is fetched for nothing
        with study.fetched(options.output, console) as folder:
            images = _images([folder], options.output, console)
            finished = _segment_images(images, link, with_dicom(endings), command)
        study.give_back(_dicom_results(finished, options.output), options.output, console)
    failed = sum(item.outcome == "failed" for item in finished)
    if failed:
        raise CasesFailedError(f"{failed} of {len(finished)} could not be segmented; the reasons are in the report.")
    return 0


def _endings(options: Namespace) -> list[str]:
    """Endings of the files of each result."""
    chosen = list(dict.fromkeys(FORMATS[name] for name in options.formats))
    return [*chosen, CONFIDENCE] if options.confidence else chosen


def _link(command: Command, site: SiteProfile) -> PrivateLink:
    options = command.options
    choices = LinkOptions(
        options.model, Quantization(options.quantization), device=command.device(), in_flight=options.in_flight
    )
    command.console.progress("asking the server for the model")
    link = open_link(site, site.task(options.task), site.client(), choices)
    if not link.asks_server:
        command.console.remark(NOTHING_LEAVES)
    return link


def _segment_images(
    images: Sequence[BatchImage], link: PrivateLink, endings: Sequence[str], command: Command
) -> list[BatchItem]:
    """What became of each; the table and the report are written, also if the run ends early."""
    output, console = command.options.output, command.console
    finished: list[BatchItem] = []
    pace = Pace()
    try:
        with closing(segment_files(images, link, output, endings=endings)) as items:
            for item in items:
                show_item(item, console, pace)
                if item.outcome is not None:
                    finished.append(item)
    finally:
        _sum_up(finished, link, output, console)
    return finished


def _dicom_results(finished: Sequence[BatchItem], output: Path) -> list[Path]:
    return [output / f"{item.name}{DICOM_SEGMENTATION}" for item in finished if item.outcome != "failed"]


def _images(places: Sequence[Path], output: Path, console: Console) -> list[BatchImage]:
    """Every image at the places; an error at one says which, as several may have been given."""
    if not places:
        raise UsageError("There is nothing to segment; name images or folders, or a list by --input.")
    images: list[BatchImage] = []
    for place in places:
        try:
            found, left_out = find_batch_images(place, without=output)
        except ReadError as error:
            raise ReadError(f"{place}: {error}") from error
        images += found
        for other in left_out:
            console.remark(f"ppcmi: {other.name} is left out: {other.reason}")
    return without_repeats(images)


def _sum_up(finished: Sequence[BatchItem], link: PrivateLink, output: Path, console: Console) -> None:
    """The table and the report, also of a run that ended early."""
    if not finished:
        return
    made_with = provenance_of(link)
    show_table(finished, link.task, console)
    try:
        place = write_report(output, link.task, Manifest(output).records.values(), made_with)
    except WriteError as error:
        console.remark(f"ppcmi: report.html: {error}")
        place = output
    show_end(finished, made_with, place, console)
