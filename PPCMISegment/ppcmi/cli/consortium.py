"""``ppcmi consortium``: found, invite, join, show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcmi import consortium, sealing
from ppcmi.cli.options import Command, add_command, add_task
from ppcmi.cli.parsers import Groups, add_group
from ppcmi.consortium import own_codec
from ppcmi.modes import MODES
from ppcmi.site import task_from_server
from ppcmi.task_profile import TaskProfile
from ppcmi.wording import printable

SHARED_KEY_WARNING = (
    "Members share one inner key: a member that colludes with the server could read other members' latents."
)


def add_parsers(groups: Groups, summary: str) -> None:
    """The group's commands."""
    group = add_group(groups, "consortium", summary)
    parser = add_command(
        group,
        "create",
        _create,
        "Found the consortium of a task. Makes the inner key, which never reaches the server.",
        "ppcmi consortium create --task hippocampus-mr",
    )
    add_task(parser)
    parser.add_argument(
        "--scope",
        choices=("consortium", "site"),
        default="consortium",
        help="one codec and inner key for all members (default), or one for each site",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="the product's protection (two-layer, the default), the published protocol (paper), or none (plain): the "
        "latter two for comparison only; plain is what tasks of other methods have",
    )
    parser = add_command(
        group,
        "invite",
        _invite,
        "Invite another site. The invitation is sealed to that site; the server relays what it cannot open.",
        'ppcmi consortium invite --task hippocampus-mr "Hospital B"',
    )
    add_task(parser)
    parser.add_argument("name", metavar="SITE", help="the other site's name on the server")
    parser.add_argument("--fingerprint", metavar="F", help="as the other site told you: invite only if it agrees")
    parser = add_command(
        group, "join", _join, "Take up the newest invitation to a task.", "ppcmi consortium join --task hippocampus-mr"
    )
    add_task(parser)
    parser = add_command(
        group,
        "show",
        _show,
        "What the consortium of a task shares, and how far this site is in it; nothing secret.",
        "ppcmi consortium show --task hippocampus-mr",
    )
    add_task(parser)


def _create(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    part = consortium.create(site, site.client(), options.task, options.scope, options.mode)
    scope, mode = part.membership.scope, part.membership.mode
    console.result(f"Founded the consortium of {part.task.identity} (scope {scope}, mode {mode}).")
    _show_check(command, part)
    console.remark(f"Next: 'ppcmi codec train --task {options.task} --cases FOLDER'.")
    return 0


def _invite(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    client, part = site.client(), site.task(options.task)
    peer = consortium.find_peer(client, options.name)
    peer.require_fingerprint(options.fingerprint)
    consortium.invite(site, client, part, peer)
    console.result(f"Invited {peer.site_name} to {part.task.identity}.")
    console.result(f"Its fingerprint:  {peer.fingerprint}")
    _show_check(command, part)
    console.remark(f"Call {peer.site_name} and compare: 'ppcmi site show' there must print this fingerprint.")
    if part.membership.scope == "consortium":
        console.remark(SHARED_KEY_WARNING)
    console.remark(f"Next: 'ppcmi consortium join --task {options.task}' at {peer.site_name}.")
    return 0


def _join(command: Command) -> int:
    site, options, console = command.site(), command.options, command.console
    client = site.client()
    _, answer = task_from_server(client, options.task)
    part, peer = consortium.join(site, client, options.task)
    console.result(f"Joined {part.task.identity}, invited by {peer.site_name} (scope {part.membership.scope}).")
    console.result(f"Its fingerprint:         {peer.fingerprint}")
    console.result(f"This site's fingerprint: {sealing.fingerprint(site.public_key)}")
    _show_check(command, part)
    console.remark(f"Call {peer.site_name} and compare both fingerprints and the check of the inner key.")
    if part.membership.scope == "consortium":
        console.remark(SHARED_KEY_WARNING)
    console.remark(_next_of_a_member(part, answer))
    return 0


def _next_of_a_member(part: TaskProfile, answer: Mapping[str, Any]) -> str:
    """What a site that has just joined can do by now.

    :param answer: the server's, of the task.
    """
    found, name = answer.get("consortium"), part.task.name
    if part.membership.scope == "site":
        return f"Next: 'ppcmi codec train --task {name} --cases FOLDER'."
    if not isinstance(found, dict) or not found.get("codec"):
        return (
            "The consortium has no codec yet; once its founder has trained one, 'ppcmi audit', then "
            f"'ppcmi cohort export', with --task {name}."
        )
    if not answer.get("active_model"):
        export = f"'ppcmi audit', then 'ppcmi cohort export', with --task {name}"
        return f"Next: {export}; 'ppcmi segment' once a model is active."
    return f"Next: 'ppcmi audit', then 'ppcmi cohort export', or at once 'ppcmi segment', with --task {name}."


def _show(command: Command) -> int:
    site, console = command.site(), command.console
    task, answer = task_from_server(site.client(), command.options.task)
    found, active = answer.get("consortium"), answer.get("active_model")
    console.result(f"Task          {task.identity}")
    if not isinstance(found, dict):
        console.result("Consortium    none yet; 'ppcmi consortium create' founds it")
        return 0
    shown = {
        "Founder": found.get("founder"),
        "Scope": found.get("scope"),
        "Mode": found.get("mode"),
        "Codec": found.get("codec") or ("each site has its own" if found.get("scope") == "site" else "none yet"),
        "Active model": active.get("number") if isinstance(active, dict) else "none yet",
        "This site": "is a member" if found.get("member") else "is no member; a member can invite it",
    }
    for name, value in shown.items():
        console.result(f"{name:<12}  {printable(str(value))}")
    if site.takes_part_in(task.name):
        part = site.task(task.name)
        if part.codec_path.exists():
            console.result(f"Codec here    {own_codec(part).fingerprint}")
        _show_check(command, part)
    return 0


def _show_check(command: Command, part: TaskProfile) -> None:
    check = consortium.inner_check_of(part)
    if check is not None and part.membership.scope == "consortium":
        command.console.result(f"Inner key's check: {'-'.join(check[i : i + 4] for i in range(0, len(check), 4))}")
