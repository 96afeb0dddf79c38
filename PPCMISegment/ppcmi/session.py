"""Open a private link to a model: the site's codec, decoder and keys fitted to what the server runs.

The one place where profile, membership and the server's answer come together, for command line, panel and tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ppcmi.client import ServerClient
from ppcmi.codec.codec import Codec
from ppcmi.codec.refinement import SiteDecoder
from ppcmi.connection_errors import OffProtocolError
from ppcmi.consortium import ensure_codec
from ppcmi.errors import CodecError, SiteError
from ppcmi.in_flight import BUNDLES_IN_FLIGHT, LARGEST_BUNDLE
from ppcmi.methods.mixup import site_unmixing
from ppcmi.methods.mixup.case import Unmixing
from ppcmi.methods.mixup.references import References
from ppcmi.pipeline import PrivateLink
from ppcmi.protection import protection_of
from ppcmi.quantization import FOR_MAPPING, Quantization
from ppcmi.scales import Profile
from ppcmi.site import SiteProfile
from ppcmi.task_profile import TaskProfile


@dataclass(frozen=True)
class LinkOptions:
    """What a user may choose about the link; what is None the server's model decides.

    :param model: number of a model, or None: the active one.
    :param use_local_network: whether the site's own network takes part; without it, and with other methods
        than ours, the server's answer alone decides.
    """

    model: int | None = None
    quantization: Quantization = FOR_MAPPING
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    slices_per_bundle: int = LARGEST_BUNDLE
    in_flight: int = BUNDLES_IN_FLIGHT
    use_local_network: bool = True


def open_link(
    site: SiteProfile, part: TaskProfile, client: ServerClient, options: LinkOptions | None = None
) -> PrivateLink:
    """A link to a model of the task.

    :raises SiteError: if there is no such model, or none is active.
    :raises CodecError: if the model was trained with another codec than the site has.
    """
    chosen = options or LinkOptions()
    number, profile, trained_with = _find_model(client, part, chosen.model)
    codec = ensure_codec(client, part).to(chosen.device)
    fingerprint = codec.fingerprint
    if part.membership.scope == "consortium" and trained_with not in (None, fingerprint):
        raise CodecError("The model was trained with another codec than the consortium has now; ask for a new model.")
    return PrivateLink(
        task=part.task,
        codec=codec,
        decoder=own_decoder(part, codec) if chosen.use_local_network and part.task.method == "ppcmi" else None,
        protection=protection_of(
            site, part, fingerprint, profile, quantization=chosen.quantization.fit_for(part.membership.mode)
        ),
        mapper=client,
        model=number,
        slices_per_bundle=chosen.slices_per_bundle,
        in_flight=chosen.in_flight,
        unmixing=_unmixing(part, codec, chosen) if part.task.method == "mixup" else None,
    )


def own_decoder(part: TaskProfile, codec: Codec) -> SiteDecoder:
    """The site's refined decoder, or before that the consortium's.

    :raises CodecError: if the site's decoder belongs to another codec.
    """
    return SiteDecoder.load(part.decoder_path, codec) if part.decoder_path.exists() else SiteDecoder(codec)


def _unmixing(part: TaskProfile, codec: Codec, chosen: LinkOptions) -> Unmixing:
    """What the site mixes with and takes answers apart with: its own unmixing, or before that the consortium's."""
    references = References.load(part.references_path, part.task.patch)
    if not chosen.use_local_network:
        return Unmixing(references, site_unmixing.unmixing_of(codec))
    return Unmixing(references, site_unmixing.load(part.decoder_path, codec))


def _find_model(client: ServerClient, part: TaskProfile, number: int | None) -> tuple[int, Profile, str | None]:
    """Number, profile and, where there is only one, the codec of a model."""
    if number is None:
        found = client.task(part.task.name).get("active_model")
        if found is None:
            raise SiteError("No model is active for this task yet; ask the server's operator.")
    else:
        found = next((m for m in client.models(part.task.name) if m.get("number") == number), None)
        if found is None:
            raise SiteError(
                f"There is no model {number} for this task; choose one of those there are.", command="ppcmi model list"
            )
    return _model(found)


def _model(document: Mapping[str, Any]) -> tuple[int, Profile, str | None]:
    try:
        codec = document.get("codec")
        return int(document["number"]), Profile(document["profile"]), codec if isinstance(codec, str) else None
    except (KeyError, TypeError, ValueError) as error:
        raise OffProtocolError from error
