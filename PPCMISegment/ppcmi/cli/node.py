"""``ppcmi node``: a DICOM node; a study that is sent to it comes back segmented."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ppcmi.archive.addresses import parse_application, parse_title
from ppcmi.archive.arrivals import Arrivals
from ppcmi.archive.node import NodeSettings, Receiver
from ppcmi.archive.node_delivery import Delivery
from ppcmi.archive.node_storage import GIBIBYTE, StorageLimits, StudyStore
from ppcmi.archive.node_tls import calling_context, listening_context
from ppcmi.archive.node_work import HISTORY, NodeWork, Segmented
from ppcmi.batch import segment_files
from ppcmi.batch_images import BatchImage
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups
from ppcmi.dicom.segmentation_out import ENDING as DICOM_SEGMENTATION
from ppcmi.errors import ConnectionFailedError, UsageError
from ppcmi.locks import hold_lock
from ppcmi.result_files import ENDINGS
from ppcmi.server_address import is_loopback
from ppcmi.session import LinkOptions, open_link
from ppcmi.site import SiteProfile
from ppcmi.sources import find_sources

DEFAULT_PORT = 11112
POLL_S = 0.5
SHORT_OF_TLS = "or insist with --insecure-without-tls."


def add_parsers(groups: Groups, summary: str) -> None:
    """The command."""
    parser = add_command(
        groups,
        "node",
        _node,
        summary,
        "ppcmi node --task hippocampus-mr --return-to ORTHANC@127.0.0.1:4242 -o node/",
    )
    add_task(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="for studies that wait")
    parser.add_argument("--return-to", required=True, metavar="AET@HOST:PORT", help="the archive that gets the results")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="AET",
        help="AE title of a caller that may send; may be given again (default: the archive's)",
    )
    parser.add_argument("--ae-title", default="PPCMI", metavar="AET", help="our own (default: PPCMI)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"0 takes any that is free (default: {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--quiet-s",
        type=float,
        default=15.0,
        metavar="S",
        help="seconds without a further instance after which a study is whole (default: 15)",
    )
    parser.add_argument(
        "--quota-gb", type=float, default=50.0, metavar="GB", help="how much may lie in the folder (default: 50)"
    )
    parser.add_argument("--keep", action="store_true", help="keep studies and results that were given back")
    parser.add_argument("--model", type=int, metavar="N", help="number of the model (default: the active one)")
    _add_tls(parser)


def _add_tls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain of this node (PEM)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's private key (PEM)")
    group.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="authority of the callers' and the archive's certificates (PEM)"
    )
    group.add_argument("--return-tls", action="store_true", help="give results back over TLS")
    group.add_argument(
        "--insecure-without-tls",
        action="store_true",
        help="talk to other machines without TLS all the same: images and names of patients travel in clear",
    )


def _node(command: Command) -> int:
    options, console = command.options, command.console
    settings, delivery = _settings(options)
    segmenter = _BatchSegmenter(command.site(), command, keep=options.keep)
    segmenter.require_task()
    limits = StorageLimits(quota_bytes=int(options.quota_gb * GIBIBYTE))
    options.output.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(options.output / "node.lock", UsageError("Another node works in this folder; choose another one.")):
        store = StudyStore(options.output, limits)
        arrivals = Arrivals(options.quiet_s)
        finish = store.keep if options.keep else store.remove
        work = NodeWork(
            store,
            arrivals,
            segmenter,
            delivery,
            finish,
            options.output / HISTORY,
            lambda text: console.remark(_timed(text)),
        )
        with Receiver(settings, store, arrivals).listening() as port:
            console.result(f"Listening as {settings.ae_title} on {settings.host} port {port}")
            try:
                _check(delivery, command)
                while True:
                    if not work.run_once():
                        time.sleep(POLL_S)
            except KeyboardInterrupt:
                console.remark("Stopped; what was received and not answered is kept.")
    return 0


@dataclass(frozen=True)
class _BatchSegmenter:
    """Segments as ``ppcmi segment`` does, with the model that is active at the time."""

    site: SiteProfile
    command: Command
    keep: bool

    def require_task(self) -> None:
        """Find out now, not at the first study, that the site has no part in the task."""
        self.site.task(self.command.options.task)
        self.command.device()

    def __call__(self, images: Path, results: Path) -> Segmented:
        """As :class:`ppcmi.archive.node_work.Segmenter`."""
        options = self.command.options
        sources = find_sources(images).images
        choices = LinkOptions(options.model, device=self.command.device())
        link = open_link(self.site, self.site.task(options.task), self.site.client(), choices)
        endings = (*ENDINGS, DICOM_SEGMENTATION) if self.keep else (DICOM_SEGMENTATION,)
        files: list[Path] = []
        failures: list[str] = []
        empty = 0
        batch = [BatchImage(source) for source in sources]
        with closing(segment_files(batch, link, results, endings=endings)) as items:
            for item in items:
                if item.outcome == "failed" and item.record is not None:
                    failures.append(item.record.error)
                elif item.outcome is not None:
                    files.append(results / f"{item.name}{DICOM_SEGMENTATION}")
                    empty += item.record is not None and item.record.found_nothing
        return Segmented(files, failures, empty)


def _settings(options: argparse.Namespace) -> tuple[NodeSettings, Delivery]:
    archive = parse_application(options.return_to)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("TLS takes both --tls-cert and --tls-key.")
    if not options.insecure_without_tls:
        if options.tls_cert is None and not is_loopback(options.host):
            raise UsageError(f"Other machines are served over TLS only; give --tls-cert and --tls-key, {SHORT_OF_TLS}")
        if not options.return_tls and not is_loopback(archive.host):
            raise UsageError(f"Results go to other machines over TLS only; give --return-tls, {SHORT_OF_TLS}")
    if not 0 <= options.port < 1 << 16:
        raise UsageError("--port is a number from 0 to 65535.")
    if not (0 <= options.quiet_s <= 3600 and 0 < options.quota_gb < 1e6):
        raise UsageError("--quiet-s is at most an hour, and --quota-gb more than 0.")
    own = parse_title(options.ae_title)
    callers = tuple(parse_title(title) for title in options.allow) or (archive.ae_title,)
    listening = None
    if options.tls_cert is not None:
        listening = listening_context(options.tls_cert, options.tls_key, options.tls_ca)
    returning = calling_context(options.tls_cert, options.tls_key, options.tls_ca) if options.return_tls else None
    settings = NodeSettings(own, options.host, options.port, callers, listening)
    return settings, Delivery(archive, own, returning)


def _check(delivery: Delivery, command: Command) -> None:
    """Say early that results could not be given back; studies wait for it all the same."""
    try:
        delivery.check()
    except ConnectionFailedError as error:
        command.console.remark(f"ppcmi: {error} Results wait until then.")


def _timed(text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
