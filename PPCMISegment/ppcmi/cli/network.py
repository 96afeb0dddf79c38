"""``ppcmi network``: the network that a site shares with its consortium's members, and what it takes of theirs."""

from __future__ import annotations

import argparse

from ppcmi.cli.console import Console
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.client import ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import USUAL_WEIGHT_TOGETHER, SiteDecoder
from ppcmi.codec.together import Together
from ppcmi.codec.trained_network import TrainedNetwork, mean_weights, network_bytes
from ppcmi.consent_log import Answer, ConsentLog
from ppcmi.consortium import ensure_codec
from ppcmi.errors import CodecError, SiteError, UsageError
from ppcmi.fitting import FitConfig
from ppcmi.session import own_decoder
from ppcmi.shared_networks import ConsortiumMembers, Telling, Waiting, list_shared, read_shared, require_sharing, share
from ppcmi.site import SiteProfile, task_from_server
from ppcmi.task_profile import TaskProfile
from ppcmi.what_leaves import NetworkLeaving, network_text
from ppcmi.wording import counted

MOST_ROUNDS = 100
USUAL_WAIT = 30
"""Minutes."""

USUAL_ROUNDS = 12
"""With 4 or 6 the members' mean came out less good, once at the end not at all (docs/results/accuracy.md, "Tried")."""


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "network", summary)
    parser = add_command(
        group,
        "show",
        _show,
        "Which members share a network, since when, and whether it can be used.",
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
        metavar="N",
        help="with --together: parts of the training, networks are exchanged after each (default: "
        f"{USUAL_ROUNDS}, or as many as it has epochs)",
    )
    group.add_argument(
        "--wait-for",
        type=int,
        metavar="N",
        help="with --together: members that train at the same time, for whose networks every round waits (default: 0)",
    )
    group.add_argument(
        "--wait-minutes", type=float, metavar="M", help=f"with --wait-for: at most so long (default: {USUAL_WAIT})"
    )
    parser.add_argument("--agreed", action="store_true", help=argparse.SUPPRESS)  # a window asked and keeps the answer


def require_sensible(options: argparse.Namespace) -> None:
    """Check the options of :func:`add_together`.

    :raises UsageError: if a number is out of range.
    """
    together = {"--rounds": options.rounds, "--wait-for": options.wait_for, "--wait-minutes": options.wait_minutes}
    for name, value in together.items():
        if value is not None and not options.together:
            raise UsageError(f"{name} is for --together; add that.")
    if options.rounds is not None and not 1 <= options.rounds <= MOST_ROUNDS:
        raise UsageError(f"--rounds is a number from 1 to {MOST_ROUNDS}.")
    if (options.wait_for or 0) < 0 or not 0 <= (options.wait_minutes or 0) <= 24 * 60:
        raise UsageError("--wait-for is a number of members, --wait-minutes at most a day.")


def require_members(client: ServerClient, part: TaskProfile, options: argparse.Namespace) -> None:
    """Check that as many other members as ``--wait-for`` says can come at all.

    :raises UsageError: if the consortium has fewer.
    """
    _, answer = task_from_server(client, part.task.name)
    consortium = answer.get("consortium")
    members = consortium.get("members") if isinstance(consortium, dict) else None
    if isinstance(members, int) and (options.wait_for or 0) >= members:
        raise UsageError(f"--wait-for: the consortium has {counted(members - 1, 'other member')} so far.")


def rounds_of(local: FitConfig, rounds: int | None) -> int:
    """How many rounds a training has, of those that were asked for: at most as many as epochs."""
    return len(local.rounds(rounds or USUAL_ROUNDS))


def members_of(command: Command, part: TaskProfile, codec: Codec, *, cases: int, rounds: int) -> ConsortiumMembers:
    """The other members, for a training with the options of :func:`add_together`; says what will leave.

    :param cases: labelled cases that this site learns from.
    """
    site, options = command.site(), command.options
    _say_what_leaves(command, site, part, cases=cases, rounds=rounds)
    console = command.console
    telling = Telling(lambda network: network.save(part.network_path), console.remark, console.progress)
    minutes = USUAL_WAIT if options.wait_minutes is None else options.wait_minutes
    waiting = Waiting(options.wait_for or 0, 60 * minutes)
    return ConsortiumMembers(site.client(), part, site.identity.site_id, codec, telling, waiting)


def show_together(console: Console, together: Together, names: list[str]) -> None:
    """Say whose networks the site's decoder has, and what its validation cases say of that.

    :param names: of the members whose networks the mean has.
    """
    figures = {
        "members": names,
        "uses": together.uses,
        "dice_own": together.dice_own,
        "dice_mean": together.dice_mean,
        "dice_continued": together.dice_continued,
    }
    console.figures("together", figures)
    if together.uses == "consortium":
        console.result(
            "With the other members' networks this site's own came out worse than the consortium's: that one is what "
            "this site uses. Refine without --together."
        )
    elif not names:
        console.result(
            "No other member's network was used: there was none, or it was left out. This site uses its own."
        )
    elif together.dice_own is None or together.dice_mean is None:
        found = f"the mean of its own network and that of {_listed(names)}"
        console.result(f"This site uses {found}; there are no validation cases to judge it by.")
    else:
        chosen = {
            "mean": "the mean",
            "continued": "what it made by itself of the mean",
            "own": "its own network, not the mean,",
        }[together.uses]
        measured = {"the mean": together.dice_mean, "its own network": together.dice_own}
        if together.dice_continued is not None:
            measured["what it made of the mean"] = together.dice_continued
        unclear = together.uses == "mean" and max(measured.values()) > together.dice_mean
        console.result(
            f"This site uses {chosen} with {_listed(names)}: on its validation cases Dice "
            + ", ".join(f"{dice:.3f} of {what}" for what, dice in measured.items())
            + (", not clearly better." if unclear else ".")
        )


def _show(command: Command) -> int:
    console, site, client, part = _at_server(command)
    rows = []
    for one in read_shared(client, part, ensure_codec(client, part)):
        this = " (this site)" if one.member.site_id == site.identity.site_id else ""
        cases = "-" if one.network is None else str(one.network.cases)
        rows.append([f"{one.member.site_name}{this}", one.member.shared, cases, one.why_not or "can be used"])
    if not rows:
        console.remark("No member shares a network now; 'ppcmi codec refine --together' does.")
        return 0
    console.table(["member", "shared", "cases", "in the members' mean"], rows)
    return 0


def _gather(command: Command) -> int:
    console, site, client, part = _at_server(command)
    codec = ensure_codec(client, part)
    networks, names, apart = [], [], 0
    for one in read_shared(client, part, codec):
        if one.why_not:
            shared = "" if one.network is None else f" (shared {one.member.shared})"
            console.remark(f"The network of {one.member.site_name} is left out: {one.why_not}{shared}.")
        if one.network is not None and not one.why_not:
            networks.append(one.network)
            names.append("this site" if one.member.site_id == site.identity.site_id else one.member.site_name)
        elif one.network is not None:
            apart += one.network.last
    if not set(names) - {"this site"}:
        raise SiteError(
            "No other member shares a network that can be used now; try again when the members have learned together."
        )
    if len(networks) <= apart:
        raise SiteError(
            "Most of the members' networks do not mix with the others; the consortium's own serves better for now."
        )
    with part.training():
        earlier = _earlier_decoder(part, codec)
        # The mean has this site's own network, which learned from the same cases.
        decoder = SiteDecoder(codec, earlier.weights, earlier.learned_from)
        decoder.usual_weight = USUAL_WEIGHT_TOGETHER
        decoder.local.load_state_dict(mean_weights(networks))
        decoder.save(part.decoder_path)
    what = "the network" if len(names) == 1 else "the mean of the networks"
    console.result(f"This site's decoder has {what} of {_listed(names)}.")
    if decoder.weights:
        console.remark("The server's share stays as 'ppcmi codec refine' chose it here.")
    console.remark(
        f"Next: 'ppcmi segment --task {part.task.name} ...', or with labelled cases first 'ppcmi model validate'."
    )
    return 0


def _earlier_decoder(part: TaskProfile, codec: Codec) -> SiteDecoder:
    """The decoder that the site has, where that is of the same codec; else the consortium's."""
    try:
        return own_decoder(part, codec)
    except CodecError:
        return SiteDecoder(codec)


def _share(command: Command) -> int:
    console, site, client, part = _at_server(command)
    codec = ensure_codec(client, part)
    if not part.network_path.exists():
        raise SiteError("This site has no network to share yet.", command="ppcmi codec refine --together")
    network = TrainedNetwork.load(part.network_path, codec)
    _say_what_leaves(command, site, part, cases=network.cases, rounds=0)
    share(client, part, site.identity.site_id, network)
    console.result("The other members can get this site's network now; take it back with 'ppcmi network withdraw'.")
    return 0


def _withdraw(command: Command) -> int:
    console, site, client, part = _at_server(command)
    if site.identity.site_id not in {member.site_id for member in list_shared(client, part)}:
        console.result("The server has no network of this site.")
        return 0
    client.withdraw_network(part.task.name)
    console.result("The server no longer has this site's network. Members that got it before keep it.")
    return 0


def _at_server(command: Command) -> tuple[Console, SiteProfile, ServerClient, TaskProfile]:
    """What each of the group's commands works with.

    :raises UsageError: if members of the task's consortium share no networks.
    """
    site = command.site()
    part = site.task(command.options.task)
    require_sharing(part)
    return command.console, site, site.client(), part


def _say_what_leaves(command: Command, site: SiteProfile, part: TaskProfile, *, cases: int, rounds: int) -> None:
    if getattr(command.options, "agreed", False):
        return
    leaving = NetworkLeaving(part.task.identity, cases, rounds, network_bytes(part.task, cases))
    ConsentLog(site.folder).record_network(leaving, Answer.COMMAND)
    for paragraph in network_text(leaving).split("\n\n"):
        command.console.remark(paragraph)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
