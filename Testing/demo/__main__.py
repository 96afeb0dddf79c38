"""Play the demo: ``make demo``, or ``make demo DATA=folder`` with labelled images of your own.

Writes segmentations, overlays, ``index.html`` and ``results.json`` into a folder, and ends with the Dice table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from demo.alone import AloneTrainings, segment_alone
from demo.page import Shown, write_page
from demo.pictures import Row, overlay, save, what_left
from demo.scores import ScoredCase, manifest_records, results_document, table
from demo.story import Hospital, Plan, Stopwatch, own_server, say, segment_held_out, train_together
from ppcmi.batch_images import BatchImage, result_names
from ppcmi.bundle import unpack
from ppcmi.cli.ending import interrupted_by_termination
from ppcmi.codec.local_network import LocalNetwork
from ppcmi.data_folders import CaseFiles
from ppcmi.errors import CancelledError, PpcmiError, UsageError
from ppcmi.metrics import score_case
from ppcmi.phantoms import write_phantom_folder
from ppcmi.pipeline import PrivateLink
from ppcmi.reading import read_labels, read_volume
from ppcmi.result_files import ENDINGS
from ppcmi.scales import Stream
from ppcmi.session import open_link
from ppcmi.slicing import head_up, slice_labels, slice_volume
from ppcmi.sources import ImageSource
from ppcmi.volume import Volume

PHANTOM_EFFORT, PHANTOM_UMN_EPOCHS = 0.4, 6
"""Enough for phantoms to show what is to be shown, within minutes on two cores."""

TASKS = Path(__file__).resolve().parents[2] / "Resources" / "Tasks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play; the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with images/, labels/, split.csv (default: phantoms)")
    parser.add_argument("--task", type=Path, help="task file (default: of the folder's name in Resources/Tasks)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the results")
    parser.add_argument("--effort", type=float, help="length of every training (default: 1; phantoms 0.4)")
    parser.add_argument(
        "--umn-epochs", type=int, help="passes of the server's training (default: its usual, times the effort)"
    )
    parser.add_argument("--cases-per-site", type=int, default=12, help="phantoms a site (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="of the phantoms (default: 1)")
    parser.add_argument("--publish-anyway", action="store_true", help="go on even with a codec that keeps masks badly")
    options = parser.parse_args(arguments)
    try:
        with interrupted_by_termination(), tempfile.TemporaryDirectory(prefix="ppcmi-demo-") as scratch:
            play(options, Path(scratch))
    except PpcmiError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: Interrupted; what it had started has ended.", file=sys.stderr)
        return CancelledError.exit_code
    return 0


def play(options: argparse.Namespace, scratch: Path) -> None:
    """The whole demo; keys and site profiles lie in ``scratch``."""
    data, task_file, effort, umn_epochs = options.data, options.task, options.effort or 1.0, options.umn_epochs
    if data is None:
        effort = options.effort or PHANTOM_EFFORT
        umn_epochs = umn_epochs or max(1, round(PHANTOM_UMN_EPOCHS * effort / PHANTOM_EFFORT))
        data, task_file = scratch / "phantoms", TASKS / "phantom.json"
        say("Making phantoms: three sites, each with a scanner of its own.")
        write_phantom_folder(data, cases_per_site=options.cases_per_site, seed=options.seed)
    plan = Plan(data, task_file or _task_of(data), effort, umn_epochs, options.publish_anyway)
    task, out, clock = plan.task, options.out, Stopwatch()
    out.mkdir(parents=True, exist_ok=True)
    hospitals = [Hospital(letter, scratch / "sites") for letter in plan.letters]
    say("Meanwhile each hospital also trains alone, for comparison.")
    own_cases = {letter: plan.cases(letter, "train") for letter in plan.letters}
    with AloneTrainings(own_cases, task, plan.effort, scratch / "alone") as alone:
        with own_server(scratch / "server", plan.task_file) as server:
            train_together(plan, server, hospitals, clock)
            segment_held_out(plan, hospitals, out / "segmentations", clock)
            links = {hospital.letter: _link(plan, hospital) for hospital in hospitals}
        _picture_what_left(plan, hospitals[0].letter, links, out / "what-left.png")
        with clock.stage("wait for the sites' trainings alone"):
            networks = {letter: alone.network(letter) for letter in plan.letters}
    shown = [one for hospital in hospitals for one in _show_site(plan, hospital, networks[hospital.letter], out)]
    cases = [one.case for one in shown]
    records = [r for h in hospitals for r in manifest_records(out / "segmentations" / h.letter)]
    settings = {
        "profile": str(links[hospitals[0].letter].profile),
        "effort": plan.effort,
        "data": "phantoms" if options.data is None else data.name,
        "server_share": {letter: _server_share(link) for letter, link in links.items()},
    }
    results = results_document(task, cases, records, clock.seconds, settings=settings)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(out, task, results, shown, "what-left.png")
    say(f"\nDice on {len(cases)} held-out cases, each site alone and together:\n\n{table(results['dice'])}\n")
    say(f"Segmentations, overlays and index.html are in {out.resolve()}")


def _show_site(plan: Plan, hospital: Hospital, network: LocalNetwork, out: Path) -> list[Shown]:
    """Score and picture one site's held-out cases, beside the site alone."""
    task, letter = plan.task, hospital.letter
    cases = plan.cases(letter, "test")
    names = result_names([BatchImage(ImageSource(case.image)) for case in cases])
    shown = []
    for case, name in zip(cases, names, strict=True):
        volume, truth = read_volume(case.image), _truth(case)
        labels = {
            "The site alone": segment_alone(network, volume, task),
            "Together, privately": read_labels(out / "segmentations" / letter / f"{name}.seg.nrrd"),
        }
        slices, grid = slice_volume(volume, task)
        reference = slice_labels(truth, grid, task)
        rows = [Row("Reference", reference), *(Row(k, slice_labels(v, grid, task)) for k, v in labels.items())]
        center = np.ascontiguousarray(slices[:, task.slicing.channels // 2])
        save(overlay(center, reference, rows, task), out / "overlays" / f"{name}.png")
        alone, private = (tuple(score_case(found, truth, task)) for found in labels.values())
        scored = ScoredCase(name, letter, len(slices), private, alone)
        files = tuple(f"segmentations/{letter}/{name}{ending}" for ending in ENDINGS)
        shown.append(Shown(scored, f"overlays/{name}.png", files))
    return shown


def _link(plan: Plan, hospital: Hospital) -> PrivateLink:
    """What the site segments with: its codec, decoder, keys and the active model."""
    site = hospital.profile
    return open_link(site, site.task(plan.task.name), site.client())


def _server_share(link: PrivateLink) -> float:
    """How much the server counts in the site's predictions, from 0 to 1."""
    return 1.0 if link.decoder is None else link.decoder.weight(link.profile)


def _picture_what_left(plan: Plan, letter: str, links: Mapping[str, PrivateLink], path: Path) -> None:
    """A held-out slice, what its latents can be decoded to, and the very bytes of a request made of them."""
    task, link = plan.task, links[letter]
    case = plan.cases(letter, "test")[0]
    slices, grid = slice_volume(read_volume(case.image), task)
    foreground: Mapping[int, int] = dict(enumerate((slice_labels(_truth(case), grid, task) > 0).sum(axis=(1, 2))))
    index = max(foreground, key=lambda number: foreground[number])
    plain = link.codec.encode_images(slices[index : index + 1]).of(link.profile)
    request = link.protection.protect({Stream.IMAGE: plain}, "0" * 32, [index])
    _, protected = unpack(request)
    center = task.slicing.channels // 2
    rebuilt = link.codec.reconstruct_images(plain, link.profile)[0, center].cpu().numpy()
    image, rebuilt = (head_up(picture, task.slicing) for picture in (slices[index, center], rebuilt))
    save(what_left(image, rebuilt, protected[Stream.IMAGE]), path)


def _truth(case: CaseFiles) -> Volume:
    assert case.label is not None, "the plan names labelled cases only"
    return read_labels(case.label)


def _task_of(data: Path) -> Path:
    """The task file whose name is the data folder's."""
    if not data.is_dir():
        raise UsageError("There is no such data folder.")
    found = TASKS / f"{data.resolve().name.replace('_', '-')}.json"
    if not found.exists():
        raise UsageError("No task file has the data folder's name; name one: DEMO_ARGS='--task FILE'.")
    return found


if __name__ == "__main__":
    sys.exit(main())
