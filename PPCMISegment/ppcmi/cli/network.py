"""``ppcmi network``: the network that a site shares with its consortium's members, and what it takes of theirs."""

from __future__ import annotations

import argparse

from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import USUAL_WEIGHT_TOGETHER, SiteDecoder
from ppcmi.codec.together import Together
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights, network_bytes
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.consortium import ensure_codec
from ppcmi.errors import BundleError, CodecError, KeyMismatchError, SiteError, UsageError
from ppcmi.shared_networks import ConsortiumMembers, Telling, Waiting, fetch, list_shared, require_sharing, share
from ppcmi.site import SiteProfile, TaskProfile
from ppcmi.what_leaves import NetworkLeaving, network_text

MOST_ROUNDS = 100
USUAL_ROUNDS = 12
"""With 4 or 6 the members' mean came out less good, once at the end not at all (docs/results/accuracy.md, "Tried")."""


def add_parsers(groups: Groups) -> None:
    """The group's commands."""
    group = add_group(groups, "network", "The networks that members of a consortium share, encrypted, with each other.")
    parser = add_command(
        group,
        "show",
        _show,
        "Which members share a network, and since when.",
        "ppcmi network show --task hippocampus-mr",
    )
    add_task(parser)
    parser = add_command(
        group,
        "gather",
        _gather,
        "Take the mean of the networks that members share, this site's included, as this site's decoder, in place of "
        "the one it has; nothing is trained, no labels are needed and nothing is sent.",
        "ppcmi network gather --task hippocampus-mr",
    )
    add_task(parser)
    parser = add_command(
        group,
        "share",
        _share,
        "Leave the network of this site's last training together for the others: again, or where that failed.",
        "ppcmi network share --task hippocampus-mr",
    )
    add_task(parser)
    parser = add_command(
        group,
        "withdraw",
        _withdraw,
        "Take this site's network back from the server; members that have it keep it.",
        "ppcmi network withdraw --task hippocampus-mr",
    )
    add_task(parser)


def add_together(parser: argparse.ArgumentParser) -> None:
    """The options by which a site learns together with the other members."""
    group = parser.add_argument_group("together with the other members")
    group.add_argument(
        "--together",
        action="store_true",
        help="learn in rounds from the mean of the members' networks, and leave this site's for them, encrypted: every "
        "member can look at it, the server cannot",
    )
    group.add_argument(
        "--rounds",
        type=int,
        default=USUAL_ROUNDS,
        metavar="N",
        help=f"with --together: parts of the training, networks are exchanged after each (default: {USUAL_ROUNDS})",
    )
    group.add_argument(
        "--wait-for",
        type=int,
        default=0,
        metavar="N",
        help="with --together: members that train at the same time, for whose networks every round waits (default: 0)",
    )
    group.add_argument(
        "--wait-minutes", type=float, default=30.0, metavar="M", help="with --wait-for: at most so long (default: 30)"
    )
    parser.add_argument("--agreed", action="store_true", help=argparse.SUPPRESS)  # a window asked and keeps the answer


def require_sensible(options: argparse.Namespace) -> None:
    """Check the options of :func:`add_together`.

    :raises UsageError: if a number is out of range.
    """
    if not 1 <= options.rounds <= MOST_ROUNDS:
        raise UsageError(f"--rounds is a number from 1 to {MOST_ROUNDS}.")
    if options.wait_for < 0 or not 0 <= options.wait_minutes <= 24 * 60:
        raise UsageError("--wait-for is a number of members, --wait-minutes at most a day.")
    if options.wait_for and not options.together:
        raise UsageError("--wait-for is for --together; add that.")


def members_of(command: Command, part: TaskProfile, codec: Codec, cases: int) -> ConsortiumMembers:
    """The other members, for a training with the options of :func:`add_together`; says what will leave.

    :param cases: labelled cases that this site learns from.
    """
    site, options = command.site(), command.options
    _say_what_leaves(command, site, part, cases=cases, rounds=options.rounds)
    console = command.console
    telling = Telling(lambda network: network.save(part.network_path), console.remark, console.progress)
    waiting = Waiting(options.wait_for, 60 * options.wait_minutes)
    return ConsortiumMembers(site.client(), part, site.identity.site_id, codec, telling, waiting)


def show_together(console: Console, together: Together, names: list[str]) -> None:
    """Say whose networks the site's decoder has, and what its validation cases say of that."""
    figures = {
        "members": names,
        "uses_mean": together.uses_mean,
        "dice_own": together.dice_own,
        "dice_mean": together.dice_mean,
    }
    console.figures("together", figures)
    if not names:
        console.result("No other member's network was there to use; this site's own is what it uses.")
        return
    found = f"The mean with the {'network' if len(names) == 1 else 'networks'} of {_listed(names)}"
    if together.dice_own is None or together.dice_mean is None:
        console.result(f"{found} is what this site uses; there are no validation cases to judge it by.")
        return
    dice = f"Dice {together.dice_mean:.3f} on the site's validation cases, its own network {together.dice_own:.3f}"
    console.result(f"{found} {'is what this site uses' if together.uses_mean else 'is not used'}: {dice}.")


def _show(command: Command) -> int:
    site, console = command.site(), command.console
    part = site.task(command.options.task)
    require_sharing(part)
    found = list_shared(site.client(), part)
    if not found:
        console.remark("No member shares a network yet; 'ppcmi codec refine --together' does.")
        return 0
    rows = [
        [f"{member.site_name} (this site)" if member.site_id == site.identity.site_id else member.site_name,
         member.shared]
        for member in found
    ]  # fmt: skip
    console.table(["member", "shared"], rows)
    return 0


def _gather(command: Command) -> int:
    site, console = command.site(), command.console
    client, part = site.client(), site.task(command.options.task)
    require_sharing(part)
    codec = ensure_codec(client, part)
    networks, names = [], []
    for member in list_shared(client, part):
        try:
            network = fetch(client, part, member, codec)
        except (BundleError, CodecError, KeyMismatchError) as error:
            console.remark(f"The network of {member.site_name} is left out: {error}")
            continue
        if network is not None and not network.last:
            console.remark(f"The network of {member.site_name} is left out: it is in the middle of a training.")
        elif network is not None:
            networks.append(network)
            names.append("this site" if member.site_id == site.identity.site_id else member.site_name)
    if not set(names) - {"this site"}:
        raise SiteError("No other member shares a network that can be used yet; ask one to share its own.")
    decoder = SiteDecoder(codec)
    decoder.usual_weight = USUAL_WEIGHT_TOGETHER
    decoder.local.load_state_dict(mean_weights(networks))
    decoder.save(part.decoder_path)
    console.result(f"This site's decoder has the mean of the networks of {_listed(names)}.")
    console.remark(f"Next: with labelled cases, 'ppcmi model validate --task {part.task.name} --cases FOLDER'.")
    return 0


def _share(command: Command) -> int:
    site, console = command.site(), command.console
    client, part = site.client(), site.task(command.options.task)
    require_sharing(part)
    codec = ensure_codec(client, part)
    if not part.network_path.exists():
        raise SiteError("This site has no network to share yet.", command="ppcmi codec refine --together")
    network = TrainedNetwork.load(part.network_path, codec)
    _say_what_leaves(command, site, part, cases=network.cases, rounds=1)
    share(client, part, site.identity.site_id, network)
    console.result("The other members can get this site's network now; take it back with 'ppcmi network withdraw'.")
    return 0


def _withdraw(command: Command) -> int:
    site, console = command.site(), command.console
    part = site.task(command.options.task)
    require_sharing(part)
    site.client().withdraw_network(part.task.name)
    console.result("The server no longer has this site's network. Members that got it before keep it.")
    return 0


def _say_what_leaves(command: Command, site: SiteProfile, part: TaskProfile, *, cases: int, rounds: int) -> None:
    if getattr(command.options, "agreed", False):
        return
    leaving = NetworkLeaving(part.task.identity, cases, rounds, network_bytes(part.task, cases))
    ConsentLog(site.folder).record_network(leaving, Answer.COMMAND)
    for paragraph in network_text(leaving).split("\n\n"):
        command.console.remark(paragraph)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
