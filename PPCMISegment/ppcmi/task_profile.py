"""A site's part in one task: the folder ``tasks/NAME`` of its profile.

::

    task.json  membership.json
    inner.key              secret, mode 0600
    codec.safetensors      and, until it is published, codec.candidate.safetensors
    decoder.safetensors    the site's own; network.safetensors is what it shares with the other members
    training.lock          held while codec or decoder are made anew
    references.safetensors images to mix with (method ``mixup``); they never leave
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ppcmi.codec.presets import Preset, document_of_file, preset_of_file
from ppcmi.errors import SiteError
from ppcmi.locks import hold_lock
from ppcmi.methods.rules import rules_of
from ppcmi.modes import Mode
from ppcmi.scales import Profile
from ppcmi.site_files import read_json, read_secret
from ppcmi.task import Task, load_task

Scope = Literal["consortium", "site"]


@dataclass(frozen=True)
class Membership:
    """How the site takes part in a task: who shares codec and inner key, and which protection.

    ``founder`` is true at the site that made the codec and the inner key.
    """

    scope: Scope
    mode: Mode
    founder: bool


@dataclass(frozen=True)
class TaskProfile:
    """A site's part in one task: membership, inner key and where its codec and decoder lie."""

    folder: Path
    task: Task
    membership: Membership

    @classmethod
    def open(cls, folder: Path) -> TaskProfile:
        """The task profile in ``folder``.

        :raises SiteError: if it is damaged.
        """
        document = read_json(folder / "membership.json", "The task's membership file is missing; join it again.")
        try:
            membership = Membership(**document)
        except TypeError as error:
            raise SiteError("The site profile is damaged; restore it from a backup, or enrol again.") from error
        return cls(folder, load_task(folder / "task.json"), membership)

    @contextmanager
    def training(self) -> Iterator[None]:
        """While codec or decoder are made anew: one at a time, as each would replace what the other makes.

        :raises SiteError: if another process makes them.
        """
        busy = SiteError("Another training of this task runs at this site; wait for its end, or end it.")
        with hold_lock(self.folder / "training.lock", busy):
            yield

    @property
    def learns_together(self) -> bool:
        """Whether members can share networks with each other: they have one codec, and a network at each site."""
        return self.task.method == "ppcmi" and self.membership.scope == "consortium"

    @property
    def inner_key(self) -> bytes:
        """The 32 bytes that never reach the server (without an inner layer they only encrypt the codec)."""
        return read_secret(self.folder / "inner.key")

    @property
    def codec_path(self) -> Path:
        """Where the codec lies, once there is one."""
        return self.folder / "codec.safetensors"

    @property
    def codec_preset(self) -> Preset:
        """Of the site's codec; before there is one, the preset that is usual for the task's method.

        :raises CodecError: if the codec's file cannot be read.
        """
        return preset_of_file(self.codec_path) if self.codec_path.exists() else rules_of(self.task.method).codec_preset

    @property
    def candidate_path(self) -> Path:
        """Where a newly trained codec waits until it is published."""
        return self.folder / "codec.candidate.safetensors"

    @property
    def references_path(self) -> Path:
        """Where patches to mix with lie (method ``mixup``); they are images of patients and stay."""
        return self.folder / "references.safetensors"

    @property
    def decoder_path(self) -> Path:
        """Where the site's own decoder lies, once it is refined."""
        return self.folder / "decoder.safetensors"

    def asks_server(self, profile: Profile) -> bool:
        """Whether the server's answer counts in the site's predictions; with a share of 0 nothing is sent to segment.

        A decoder that cannot be read counts as one that asks: who uses it says what is wrong with it.
        """
        try:
            share = document_of_file(self.decoder_path)["weights"].get(profile.value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return True
        return bool(share != 0)

    @property
    def network_path(self) -> Path:
        """Where the network lies that the site trained last, if it learns together with the other members."""
        return self.folder / "network.safetensors"
