"""``ppcmi network``: the network that a site shares with its consortium's members, and what it takes of theirs."""

from __future__ import annotations

import argparse

from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.codec.together import Together
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights, network_bytes
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.consortium import ensure_codec
from ppcmi.errors import CodecError, SiteError, UsageError
from ppcmi.session import own_decoder
from ppcmi.shared_networks import ConsortiumMembers, Telling, list_shared, require_sharing, share
from ppcmi.site import SiteProfile, TaskProfile
from ppcmi.what_leaves import NetworkLeaving, network_text

MOST_ROUNDS = 100
USUAL_ROUNDS = 12
"""As many exchanges as docs/results/accuracy.md measured to be worth it."""


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
        "Take the mean of the members' networks, and of this site's if it has one, as this site's decoder; nothing is "
        "trained, no labels are needed and nothing is sent.",
        "ppcmi network gather --task hippocampus-mr",
    )
    add_task(parser)
    parser = add_command(
        group,
        "share",
        _share,
        "Leave the network that this site trained last for the other members; the server cannot open it.",
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


def members_of(command: Command, part: TaskProfile, codec: Codec, cases: int) -> ConsortiumMembers:
    """The other members, for a training with the options of :func:`add_together`; says what will leave.

    :param cases: labelled cases that this site learns from.
    """
    site, options = command.site(), command.options
    _say_what_leaves(command, site, part, cases=cases, rounds=options.rounds)
    return ConsortiumMembers(
        site.client(),
        part,
        site.identity.site_id,
        codec,
        Telling(lambda network: network.save(part.network_path), command.console.remark, command.console.progress),
        shares=True,
        wait_for=options.wait_for,
        longest_wait_s=60 * options.wait_minutes,
    )


def earlier_network(part: TaskProfile, codec: Codec) -> TrainedNetwork | None:
    """What the site trained last together with others; None if that was with another codec, or never."""
    if not part.network_path.exists():
        return None
    try:
        return TrainedNetwork.load(part.network_path, codec)
    except CodecError:
        return None


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
        console.result("No other member shares a network yet; this site's own is what it uses.")
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
    telling = Telling(lambda network: None, console.remark, console.progress)
    members = ConsortiumMembers(client, part, site.identity.site_id, codec, telling, shares=False)
    own, others = earlier_network(part, codec), members.networks()
    if not others:
        raise SiteError("No other member shares a network that can be used yet; ask one to share its own.")
    decoder = _decoder(part, codec)
    decoder.local.load_state_dict(mean_weights(others if own is None else [own, *others]))
    decoder.save(part.decoder_path)
    mine = "" if own is None else " and this site's"
    console.result(f"This site's decoder has the mean of the networks of {_listed(members.names)}{mine}.")
    console.remark(f"Next: with labelled cases, 'ppcmi model validate --task {part.task.name} --cases FOLDER'.")
    return 0


def _share(command: Command) -> int:
    site, console = command.site(), command.console
    client, part = site.client(), site.task(command.options.task)
    require_sharing(part)
    codec = ensure_codec(client, part)
    network = earlier_network(part, codec)
    if network is None:
        raise SiteError("This site has no network to share yet.", command="ppcmi codec refine --together")
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


def _decoder(part: TaskProfile, codec: Codec) -> SiteDecoder:
    """The site's decoder with its shares of the server; a new one where there is none for this codec."""
    try:
        return own_decoder(part, codec)
    except CodecError:
        return SiteDecoder(codec)


def _say_what_leaves(command: Command, site: SiteProfile, part: TaskProfile, *, cases: int, rounds: int) -> None:
    if getattr(command.options, "agreed", False):
        return
    leaving = NetworkLeaving(part.task.identity, cases, rounds, network_bytes(part.task, cases))
    ConsentLog(site.folder).record_network(leaving, Answer.COMMAND)
    for paragraph in network_text(leaving).split("\n\n"):
        command.console.remark(paragraph)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
