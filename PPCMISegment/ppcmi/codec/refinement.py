"""The site's decoder: the server's answer and the site's own network, averaged as its validation cases choose.

Two predictions that err independently are better together than either alone; the weight is the site's own, measured
on cases that the server's model was never trained on, so that private collaboration is not worse than working alone.
A site without labels uses the consortium's network and the usual weight. One whose codec nobody shares and that has no
case to choose on is left to its own network: see :func:`leave_alone`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ppcmi.codec.codec import DAMAGE, MAXIMUM_FILE_BYTES, Codec
from ppcmi.codec.local_network import build_local_network
from ppcmi.codec.presets import LEARNED_FROM, document_of_file, read_metadata
from ppcmi.codec.quality import mean_dice
from ppcmi.codec.slice_set import SliceSet
from ppcmi.codec.training import predict_locally, train_local_network
from ppcmi.errors import CodecError
from ppcmi.files import write_atomically
from ppcmi.fitting import FitConfig, Report, ignore_report
from ppcmi.latents import Latents
from ppcmi.scales import Profile

FORMAT = "ppcmi-decoder/1"
USUAL_WEIGHT = 0.4
"""The server's share where no validation case says better (RESULTS: 0.35 to 0.5 was best)."""

USUAL_WEIGHT_TOGETHER = 0.2
"""The same where members learned together: the site's network then knows all of their labels, as the server's does
(docs/results/accuracy.md, "Tried")."""

PRIOR_CASES = 4
"""How many validation cases it takes to count as much as the usual weight."""

LEAST_GAIN = 5e-4
"""Of Dice, by which the server must be of use on validation cases: what the third digit shows."""


class SiteDecoder(nn.Module):
    """Turns the server's mask latents into probabilities with this site's own knowledge.

    :param weights: the server's share by profile name; a profile that is absent takes ``usual_weight``.
    :param learned_from: digests of the cases that it learned from; see :mod:`ppcmi.codec.learned_cases`.
    """

    def __init__(
        self, codec: Codec, weights: dict[str, float] | None = None, learned_from: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.codec = codec
        self.learned_from = frozenset(learned_from)
        self.weights = dict(weights or {})
        self.usual_weight = 1.0 if codec.follows_a_paper else USUAL_WEIGHT
        self.local = build_local_network(codec.task.slicing.channels, codec.task.classes, codec.task.slicing.size)
        self.local.load_state_dict(codec.local.state_dict())
        self.to(codec.device).eval()

    def weight(self, profile: Profile) -> float:
        """The server's share for ``profile``; as published it is all of it, unless the site chose otherwise."""
        return self.weights.get(profile.value, self.usual_weight)

    def decode(self, latents: Latents, slices: Tensor, profile: Profile) -> Tensor:
        """Standardized mask latents and slices ``(n, c, h, w)`` to probabilities ``(n, K + 1, h, w)``."""
        weight = self.weight(profile)
        if weight == 0:
            return self.alone(slices)
        server = self.codec.decode_masks(latents, slices, profile)
        return weight * server + (1 - weight) * self.alone(slices) if weight < 1 else server

    def alone(self, slices: Tensor) -> Tensor:
        """What the site's own network says without the server, ``(n, K + 1, h, w)``."""
        return predict_locally(self.local, slices)

    def save(self, path: Path) -> None:
        """Write the site's part (not the codec), by rename.

        :raises WriteError: if it cannot be written.
        """
        document = {
            "format": FORMAT,
            "codec": self.codec.fingerprint,
            "weights": self.weights,
            "usual_weight": self.usual_weight,
            LEARNED_FROM: sorted(self.learned_from),
        }
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.local.state_dict().items()}
        write_atomically(path, safetensors.torch.save(tensors, {"ppcmi": json.dumps(document, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path, codec: Codec) -> SiteDecoder:
        """Read :meth:`save`.

        :raises CodecError: if the file is damaged or belongs to another codec.
        """
        try:
            if path.stat().st_size > MAXIMUM_FILE_BYTES:
                raise CodecError(
                    "The site's decoder is larger than 256 MiB; refine it again.", command="ppcmi codec refine"
                )
            data = path.read_bytes()
            document = json.loads(read_metadata(data)["ppcmi"])
            if document["format"] != FORMAT or document["codec"] != codec.fingerprint:
                raise CodecError(
                    "The site's decoder belongs to another codec; refine it again.", command="ppcmi codec refine"
                )
            learned_from = {str(digest) for digest in document.get(LEARNED_FROM, ())}
            decoder = cls(codec, {str(k): float(v) for k, v in document["weights"].items()}, learned_from)
            decoder.usual_weight = float(document.get("usual_weight", decoder.usual_weight))
            decoder.local.load_state_dict(safetensors.torch.load(data))
        except (OSError, *DAMAGE) as error:
            raise CodecError("The site's decoder is damaged; refine it again.", command="ppcmi codec refine") from error
        return decoder.eval()


def learned_together(decoder: Path) -> bool:
    """Whether the decoder in a file has what a site learned together with others; not so if it does not say."""
    try:
        return bool(document_of_file(decoder)["usual_weight"] == USUAL_WEIGHT_TOGETHER)
    except (OSError, *DAMAGE):
        return False


@dataclass(frozen=True)
class RefinementConfig:
    """How a site refines its decoder.

    :param local: long and bold, although it starts from the consortium's network: that one may have missed a
        structure that is rare at the founder, and saw another scanner.
    :param rounds: parts of that training, where members learn together; see :mod:`ppcmi.codec.together`.
    """

    seed: int = 1
    rounds: int = 1
    local: FitConfig = field(default_factory=lambda: FitConfig(epochs=20, minimum_steps=1000))


@dataclass(frozen=True)
class Refinement:
    """What a refinement chose and measured: mean Dice on the site's validation cases by the server's share."""

    weight: float
    dice_by_weight: dict[float, float]

    def document(self) -> dict[str, object]:
        """As JSON-ready numbers."""
        return asdict(self)


def refine_local_network(
    codec: Codec, labelled: SliceSet, config: RefinementConfig, *, report: Report = ignore_report
) -> SiteDecoder:
    """A site's decoder whose network went on from the consortium's on the site's own cases."""
    decoder = SiteDecoder(codec)
    generator = torch.Generator().manual_seed(config.seed)
    train_local_network(decoder.local, labelled, config.local, generator, report=report)
    return decoder


def leave_alone(
    codec: Codec, labelled: SliceSet, profile: Profile, config: RefinementConfig, *, report: Report = ignore_report
) -> tuple[SiteDecoder, Refinement]:
    """The site as it would be without a server: its network learns from nothing, the server's share is 0.

    For a codec that only this site has, without cases to choose a share on. There the server learns little from one
    site for another, with few labels any share made predictions worse, and to go on from the site's own codec brought
    nothing over a fresh start (docs/RESULTS.md, "a codec for each site").
    """
    decoder = SiteDecoder(codec, {profile.value: 0.0})
    slicing = codec.task.slicing
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        decoder.local = build_local_network(slicing.channels, codec.task.classes, slicing.size).to(codec.device)
    generator = torch.Generator().manual_seed(config.seed)
    train_local_network(decoder.local, labelled, config.local, generator, report=report)
    return decoder, Refinement(0.0, {})


def fit_share(
    decoder: SiteDecoder,
    validation: SliceSet | None,
    map_images: Callable[[Latents], Latents],
    profile: Profile,
) -> Refinement:
    """Fit the server's share in ``decoder`` to cases that nobody trained on; without any it is the usual one.

    :param validation: labelled cases that were never exported.
    :param map_images: the server: standardized image latents of the profile's scales of one case to mask latents.
    """
    if validation is None or not validation.cases:
        decoder.weights[profile.value] = decoder.weight(profile)
        return Refinement(decoder.weight(profile), {})
    return choose_share(decoder, validation, map_images, profile)


def choose_share(
    decoder: SiteDecoder, validation: SliceSet, map_images: Callable[[Latents], Latents], profile: Profile
) -> Refinement:
    """Set the server's share in ``decoder`` by the validation cases' mean Dice; see :func:`fit_share`."""
    codec = decoder.codec
    alone = decoder.alone(validation.slices)
    server = torch.cat(
        [
            codec.decode_masks(map_images(codec.encode_images(case.slices).of(profile)), case.slices, profile)
            for case in validation.each_case()
        ]
    )
    dice = {
        share / 20: mean_dice(
            (share / 20 * server + (1 - share / 20) * alone).argmax(dim=1), validation, codec.task.classes
        )
        for share in range(21)
    }
    weight = choose_weight(dice, validation.cases, decoder.usual_weight)
    decoder.weights[profile.value] = weight
    return Refinement(weight, dice)


def choose_weight(dice: dict[float, float], cases: int, usual: float = USUAL_WEIGHT) -> float:
    """The share with the best Dice, drawn toward the usual one when few cases speak for it, but only as far as these
    cases show that the server adds something; 0, where nothing is sent, if it adds nothing with any share.

    :param dice: mean Dice by the server's share; share 0 is the site alone.
    """
    useful = [share for share in dice if dice[share] >= dice[0.0] + LEAST_GAIN]
    if not useful:
        return 0.0
    best = max(useful, key=lambda share: (dice[share], -abs(share - usual)))
    drawn = (cases * best + PRIOR_CASES * usual) / (cases + PRIOR_CASES)
    return drawn if _nearest(dice, drawn) in useful else _nearest(useful, drawn)


def _nearest(shares: Iterable[float], wanted: float) -> float:
    return min(shares, key=lambda share: abs(share - wanted))
