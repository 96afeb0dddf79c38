"""Sites that share a codec and an inner key for a task: found, invite, join, publish the codec, fetch it.

The server relays and stores what it cannot read. An invitation is sealed to the invited site's public key and proves
that its sender holds the private key of the public key that the server shows for it; whether these public keys are
really the two sites' is for people to settle: they compare fingerprints, and the inner key's check, by telephone.
The codec travels encrypted (AES-256-GCM) under a key derived from the inner key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppcmi import among_members, sealing
from ppcmi.client import NOT_FOUND, ServerClient, decode_binary
from ppcmi.codec.codec import Codec
from ppcmi.errors import BundleError, CodecError, KeyMismatchError, ServerRefusedError, SiteError, UsageError
from ppcmi.files import write_atomically
from ppcmi.klt.inner import InnerLayer
from ppcmi.methods.rules import rules_of
from ppcmi.modes import Mode, has_inner_layer
from ppcmi.site import SiteProfile, task_from_server
from ppcmi.site_files import KEY_BYTES
from ppcmi.task import Task
from ppcmi.task_profile import Membership, Scope, TaskProfile
from ppcmi.wording import printable

INVITATION = "ppcmi-invitation/1"
CODEC_MAGIC = b"PPCMI-K1"


class NotInvitedError(SiteError):
    """There is no invitation for this site to the task."""


@dataclass(frozen=True)
class Peer:
    """Another site as the server names it; ``fingerprint`` is what people compare by telephone."""

    site_id: str
    site_name: str
    public_key: bytes

    @property
    def fingerprint(self) -> str:
        """Of the public key, readable aloud."""
        return sealing.fingerprint(self.public_key)

    def require_fingerprint(self, told: str | None) -> None:
        """Compare with what the site's people told; None stands for a comparison that is left for later.

        :raises KeyMismatchError: if it is another.
        """
        if told is not None and not hmac.compare_digest(told.strip().lower().encode(), self.fingerprint.encode()):
            raise KeyMismatchError("The server shows another key for that site than the site told you; do not go on.")


def create(
    site: SiteProfile, client: ServerClient, task_name: str, scope: Scope, mode: Mode | None = None
) -> TaskProfile:
    """Found the consortium of a task, with a new inner key, in ``mode`` or the one that is usual for its method.

    If the server's answer was lost, the key is kept, and founding again goes on from there.

    :raises SiteError: if the site takes part already.
    :raises UsageError: if the task's method does not work in the mode.
    :raises ServerRefusedError: if there is a consortium already; have a member invite you.
    """
    task, answer = task_from_server(client, task_name)
    if site.takes_part_in(task.name) and answer.get("consortium") is None and site.task(task.name).membership.founder:
        part = site.task(task.name)
        client.create_consortium(task.name, part.membership.scope, part.membership.mode, inner_check_of(part))
        return part
    modes = rules_of(task.method).modes
    if mode is None:
        mode = modes[0]
    elif mode not in modes:
        raise UsageError(f"The task's method is '{task.method}', which works in mode {' or '.join(modes)} only.")
    part = site.add_task(task, Membership(scope, mode, founder=True), secrets.token_bytes(KEY_BYTES))
    try:
        client.create_consortium(task.name, scope, mode, inner_check_of(part))
    except ServerRefusedError as error:
        if error.status < 500:  # else it may have been founded all the same
            site.forget_task(task.name)
        raise
    return part


def find_peer(client: ServerClient, name: str) -> Peer:
    """The site called ``name``.

    :raises SiteError: if the server has none.
    """
    try:
        answer = client.find_site(name)
    except ServerRefusedError as error:
        if error.status != NOT_FOUND:
            raise
        raise SiteError(
            "No site of that name has enrolled at the server; ask there for the name, to the letter.",
            command="ppcmi site show, at the other site",
        ) from error
    return Peer(
        str(answer.get("site_id")), printable(str(answer.get("site_name"))), decode_binary(answer.get("public_key"))
    )


def invite(site: SiteProfile, client: ServerClient, part: TaskProfile, peer: Peer) -> None:
    """Leave an invitation for ``peer`` on the server, sealed to its public key.

    It holds the inner key where members share it (scope ``consortium``), or only scope and mode (scope ``site``).
    """
    shared = part.inner_key if part.membership.scope == "consortium" else None
    context = _invitation_context(part.task, site.identity.site_id, peer.site_id)
    document = {
        "format": INVITATION,
        "task": part.task.identity,
        "scope": part.membership.scope,
        "mode": part.membership.mode,
        "inner_key": None if shared is None else base64.b64encode(shared).decode(),
        "proof": _proof(sealing.agree(site.private_key, peer.public_key, context=context), shared),
    }
    sealed = sealing.seal(peer.public_key, json.dumps(document).encode(), context)
    client.invite(part.task.name, peer.site_id, sealed)


def find_inviter(client: ServerClient, task_name: str) -> Peer:
    """Who the newest invitation to a task is from, so that people can compare fingerprints before :func:`join`.

    :raises NotInvitedError: if there is none.
    """
    _, name = _newest_invitation(client, task_name)
    return find_peer(client, name)


def join(
    site: SiteProfile, client: ServerClient, task_name: str, inviter: Peer | None = None
) -> tuple[TaskProfile, Peer]:
    """Take up the newest invitation to a task; the site's part in it, and who invited.

    :param inviter: whom people agreed to join, or None for whoever invited last.
    :raises NotInvitedError: if there is no invitation.
    :raises SiteError: if the invitation is not what it should be: nothing is stored then.
    """
    task, _ = task_from_server(client, task_name)
    if site.takes_part_in(task.name):
        raise SiteError(f"The site takes part in task '{task.name}' already.")
    sealed, name = _newest_invitation(client, task.name)
    peer = find_peer(client, name)
    if inviter is not None and peer != inviter:
        raise SiteError("Another invitation has come meanwhile; look at whom it is from, and join again.")
    context = _invitation_context(task, peer.site_id, site.identity.site_id)
    membership, shared = _read_invitation(
        sealing.open_sealed(site.private_key, sealed, context),
        task,
        sealing.agree(site.private_key, peer.public_key, context=context),
    )
    client.join(task.name)
    part = site.add_task(task, membership, secrets.token_bytes(KEY_BYTES) if shared is None else shared)
    return part, peer


def inner_check_of(part: TaskProfile) -> str | None:
    """The check value of the inner key, equal at sites that share it; None in modes that have none."""
    if not has_inner_layer(part.membership.mode):
        return None
    return InnerLayer(part.inner_key, part.task.identity).check()


def publish_codec(client: ServerClient, part: TaskProfile, codec: Codec) -> None:
    """Leave the codec, encrypted, for the other members."""
    context = _codec_context(part, codec.fingerprint)
    encrypted = among_members.encrypt(part.inner_key, CODEC_MAGIC, context, codec.to_bytes())
    client.put_codec(part.task.name, encrypted, codec.fingerprint)


def fetch_codec(client: ServerClient, part: TaskProfile) -> Codec:
    """Get the consortium's codec, check that it is the one that its fingerprint names, and keep it.

    :raises CodecError: if it is of another task or not what its fingerprint says.
    :raises KeyMismatchError: if it cannot be decrypted with this consortium's inner key.
    """
    encrypted, fingerprint = client.codec(part.task.name)
    try:
        content = among_members.decrypt(part.inner_key, CODEC_MAGIC, _codec_context(part, fingerprint), encrypted)
    except BundleError as error:
        raise CodecError(
            "The codec on the server is damaged; have the consortium's founder publish it again."
        ) from error
    except KeyMismatchError as error:
        raise KeyMismatchError(
            "The codec on the server was not made by this consortium; have its founder publish it again."
        ) from error
    codec = Codec.from_bytes(content)
    if codec.fingerprint != fingerprint or codec.task.identity != part.task.identity:
        raise CodecError("The codec on the server is another one than it claims to be; nothing was stored.")
    replaces = part.codec_path.exists()
    write_atomically(part.codec_path, content)
    if replaces:
        forget_networks(part)
    return codec


def forget_networks(part: TaskProfile) -> None:
    """Delete what belonged to the codec before, which nobody can use any longer: the site's decoder and network."""
    for earlier in (part.decoder_path, part.network_path):
        earlier.unlink(missing_ok=True)


def own_codec(part: TaskProfile) -> Codec:
    """The codec that the site has.

    :raises CodecError: if it has none yet.
    """
    if not part.codec_path.exists() and part.candidate_path.exists():
        raise CodecError("The trained codec is not published yet; do that first.", command="ppcmi codec publish")
    if not part.codec_path.exists():
        raise CodecError("There is no codec for this task yet; train one.", command="ppcmi codec train")
    return Codec.load(part.codec_path)


def ensure_codec(client: ServerClient, part: TaskProfile) -> Codec:
    """The site's codec; a member that shares one gets it, or a newer one, from the server.

    :raises CodecError: if there is none yet.
    """
    if part.membership.founder or part.membership.scope == "site":
        return own_codec(part)
    published = (client.task(part.task.name).get("consortium") or {}).get("codec")
    if part.codec_path.exists():
        codec = Codec.load(part.codec_path)
        if published in (None, codec.fingerprint):
            return codec
    if published is None:
        raise CodecError(
            "The consortium's founder has not published a codec yet; ask there for it.",
            command="ppcmi codec train, at the founder's site",
        )
    return fetch_codec(client, part)


def _invitation_context(task: Task, sender: str, receiver: str) -> bytes:
    return b"|".join((b"ppcmi invitation", task.identity.encode(), sender.encode(), receiver.encode()))


def _newest_invitation(client: ServerClient, task: str) -> tuple[bytes, str]:
    try:
        return client.invitation(task)
    except ServerRefusedError as error:
        if error.status != NOT_FOUND:
            raise
        raise NotInvitedError(
            "Nobody has invited this site to the task yet; ask a member for an invitation.",
            command="ppcmi consortium invite, at the member's site",
        ) from error


def _proof(agreed: bytes, shared: bytes | None) -> str:
    """What only the two sites can compute, over what the invitation brings."""
    return hmac.new(agreed, b"ppcmi invitation|" + (shared or b""), hashlib.sha256).hexdigest()


def _read_invitation(content: bytes, task: Task, agreed: bytes) -> tuple[Membership, bytes | None]:
    try:
        fields: Mapping[str, Any] = json.loads(content)
        shared = None if fields["inner_key"] is None else base64.b64decode(fields["inner_key"], validate=True)
        scope, mode, proof = fields["scope"], fields["mode"], str(fields["proof"])
        identity = fields["task"]
    except (ValueError, KeyError, TypeError) as error:
        raise SiteError("The invitation is of another version of ppcmi; update the older of the two sites.") from error
    if not hmac.compare_digest(proof, _proof(agreed, shared)):
        raise SiteError("The invitation was not made by the site it claims to be from; ask that site.")
    if identity != task.identity or scope not in ("consortium", "site") or mode not in rules_of(task.method).modes:
        raise SiteError("The invitation is for another version of the task; ask to be invited again.")
    if (scope == "consortium") != (shared is not None) or (shared is not None and len(shared) != KEY_BYTES):
        raise SiteError("The invitation does not hold what it should; ask to be invited again.")
    return Membership(scope, mode, founder=False), shared


def _codec_context(part: TaskProfile, fingerprint: str) -> bytes:
    """What the codec is encrypted as."""
    return b"|".join((b"ppcmi codec", part.task.identity.encode(), fingerprint.encode()))
