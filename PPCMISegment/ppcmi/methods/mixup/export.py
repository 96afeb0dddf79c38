"""Labelled cases on their way out under Mixup-Privacy: each is mixed with references of others, and becomes some.

So the first case of a site has nothing to be mixed with until a second one comes: it waits for that.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from torch import Tensor

from ppcmi.codec.slice_set import SliceSet
from ppcmi.errors import ReadError, SiteError
from ppcmi.methods.mixup.case import LabelledPatches, labelled_patches
from ppcmi.methods.mixup.references import References
from ppcmi.task import Task


class PatchesToExport:
    """The cases of one export.

    :param path: of the site's references.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._path, self._task = path, task
        self._waiting: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, case: SliceSet, pseudonym: str) -> int:
        """Cut a case into patches, and keep some of them as references; how many patches it has.

        :raises ReadError: if there is nothing in it to mix other cases with.
        :raises SiteError: if the file of references is damaged.
        :raises WriteError: if it cannot be written.
        """
        ((pictures, labels),) = labelled_patches(case, self._task)
        if not labels.any():
            raise ReadError("The labels hold no structure that other patches could be mixed with.")
        self._references().with_more(pictures, labels, pseudonym).save(self._path)
        self._waiting[pseudonym] = pictures, labels
        return len(pictures)

    def ready(self) -> dict[str, LabelledPatches]:
        """Cases, by pseudonym, that can be mixed with references of others; each is given once."""
        references, ready = self._references(), {}
        for pseudonym, (pictures, labels) in tuple(self._waiting.items()):
            others = references.without(pseudonym).of_others(pictures)
            if len(others):
                # Who knows the seed of a mixture knows the share: it is drawn anew.
                ready[pseudonym] = LabelledPatches(pictures, labels, self._task, others, secrets.randbits(48))
                del self._waiting[pseudonym]
        return ready

    def require_none_waiting(self) -> None:
        """Every case was given.

        :raises SiteError: if one found no other to be mixed with.
        """
        if self._waiting:
            raise SiteError(
                "This method mixes every case with labelled cases of other patients, and there is only one; export at "
                "least two together."
            )

    def _references(self) -> References:
        return References.load(self._path, self._task.patch)
