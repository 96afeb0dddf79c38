"""References: patches of the site's own labelled cases, which its patients' images are mixed with. They stay home."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ppcmi.errors import SiteError
from ppcmi.files import write_atomically

FORMAT = "ppcmi-references/1"
MOST_REFERENCES = 64


@dataclass(frozen=True, eq=False)
class References:
    """Patches with their labels.

    :param pictures: ``(r, s, s, s)`` float32 in [0, 1].
    :param labels: the same shape, uint8.
    """

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def with_more(self, pictures: Tensor, labels: Tensor) -> References:
        """These and more, as long as there is room; patches without any structure are no good references."""
        useful = (labels > 0).flatten(1).any(dim=1)
        room = max(0, MOST_REFERENCES - len(self))
        return References(
            torch.cat((self.pictures, pictures[useful][:room])), torch.cat((self.labels, labels[useful][:room]))
        )

    def save(self, path: Path) -> None:
        """Write the file, mode 0600, by rename.

        :raises WriteError: if it cannot be written.
        """
        tensors = {"pictures": (self.pictures * 255).round().to(torch.uint8), "labels": self.labels}
        write_atomically(path, safetensors.torch.save(tensors, {"ppcmi": json.dumps({"format": FORMAT})}), mode=0o600)

    @classmethod
    def load(cls, path: Path, size: int) -> References:
        """Read :meth:`save`; none if there is no file.

        :param size: voxels a side.
        :raises SiteError: if the file is damaged.
        """
        if not path.exists():
            return without_any(size)
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            return cls(tensors["pictures"].float() / 255, tensors["labels"])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise SiteError("The file of references is damaged; export labelled cases again.") from error


def no_references() -> SiteError:
    """The site has no labelled patches to mix with."""
    return SiteError(
        "This method mixes images with labelled ones of the site, and there are none yet; export labelled cases first.",
        command="ppcmi cohort export",
    )


def without_any(size: int) -> References:
    """No references yet, of patches with ``size`` voxels a side."""
    empty = torch.zeros(0, size, size, size)
    return References(empty, empty.to(torch.uint8))
