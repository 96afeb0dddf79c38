"""References: patches of the site's own labelled cases, which its patients' images are mixed with. They stay home."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ppcmi.codec.presets import read_metadata
from ppcmi.errors import SiteError
from ppcmi.files import write_atomically

FORMAT, EARLIER = "ppcmi-references/2", "ppcmi-references/1"
MOST_REFERENCES = 64
MOST_OF_A_CASE = MOST_REFERENCES // 2
"""So that there are always some of another case: a patch is never mixed with its own case."""
SAME_PICTURE = 1e-2
"""Patches no further apart than this, anywhere, are the same one: a file keeps 8 bits a voxel."""


@dataclass(frozen=True, eq=False)
class References:
    """Patches with their labels.

    :param pictures: ``(r, s, s, s)`` float32 in [0, 1].
    :param labels: the same shape, uint8.
    :param cases: which case each is of, by the pseudonym that it has at the site.
    """

    pictures: Tensor
    labels: Tensor
    cases: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pictures.shape != self.labels.shape or len(self.cases) != len(self.pictures):
            raise ValueError("every reference has a picture, labels and a case")

    def __len__(self) -> int:
        return len(self.pictures)

    def with_more(self, pictures: Tensor, labels: Tensor, case: str | None = None) -> References:
        """These and those of one more case, as long as there is room, in place of what there was of it before.

        Patches without any structure are no good references.

        :param case: its pseudonym; None where it has none and comes once.
        """
        case = case or secrets.token_hex(16)
        others = self.without(case)
        useful = (labels > 0).flatten(1).any(dim=1)
        room = min(MOST_OF_A_CASE, max(0, MOST_REFERENCES - len(others)))
        pictures, labels = pictures[useful][:room], labels[useful][:room]
        return References(
            torch.cat((others.pictures, pictures)),
            torch.cat((others.labels, labels)),
            (*others.cases, *(case for _ in pictures)),
        )

    def without(self, *cases: str) -> References:
        """Those of other cases."""
        kept = [index for index, case in enumerate(self.cases) if case not in cases]
        return References(self.pictures[kept], self.labels[kept], tuple(self.cases[index] for index in kept))

    def of_others(self, pictures: Tensor) -> References:
        """Those of cases that none of these patches ``(n, s, s, s)`` is of, also where nobody says which case it is.

        A case's own patches are found by what they show: the same image is always cut the same way.
        """
        own = {
            case
            for case, reference in zip(self.cases, self.pictures, strict=True)
            if bool(((pictures - reference).abs().flatten(1).amax(dim=1) < SAME_PICTURE).any())
        }
        return self.without(*own)

    def save(self, path: Path) -> None:
        """Write the file, mode 0600, by rename.

        :raises WriteError: if it cannot be written.
        """
        tensors = {"pictures": (self.pictures * 255).round().to(torch.uint8), "labels": self.labels}
        document = json.dumps({"format": FORMAT, "cases": self.cases})
        write_atomically(path, safetensors.torch.save(tensors, {"ppcmi": document}), mode=0o600)

    @classmethod
    def load(cls, path: Path, size: int) -> References:
        """Read :meth:`save`; none if there is no file, or one that does not say which case a patch is of.

        :param size: voxels a side.
        :raises SiteError: if the file is damaged.
        """
        if not path.exists():
            return without_any(size)
        try:
            data = path.read_bytes()
            document = json.loads(read_metadata(data)["ppcmi"])
            if document["format"] == EARLIER:
                return without_any(size)
            tensors = safetensors.torch.load(data)
            return cls(tensors["pictures"].float() / 255, tensors["labels"], tuple(map(str, document["cases"])))
        except (OSError, KeyError, TypeError, AttributeError, ValueError, safetensors.SafetensorError) as error:
            raise SiteError("The file of references is damaged; remove it, and export labelled cases again.") from error


def no_references() -> SiteError:
    """The site has no labelled patches of another case to mix with."""
    return SiteError(
        "This method mixes images with labelled ones of other cases of the site, and there are none yet; export "
        "labelled cases first, at least two.",
        command="ppcmi cohort export",
    )


def without_any(size: int) -> References:
    """No references yet, of patches with ``size`` voxels a side."""
    empty = torch.zeros(0, size, size, size)
    return References(empty, empty.to(torch.uint8), ())
