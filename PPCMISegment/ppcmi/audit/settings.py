"""The rows of the report: every way to protect, seen with the eyes of everyone who could look.

An attacker is told everything but the keys it lacks, so the codec counts as known where members share it and one of
them may give it away, and where a site has one of its own, which may be stolen; a server that has nobody's codec has
rows of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ppcmi.audit.attacker import Knowledge, Pairs, Protect
from ppcmi.audit.setting import Encode, Observer, Setting
from ppcmi.audit.subjects import Subjects
from ppcmi.audit.views import NetworkView, NoisyView, PlainView, PublishedView, ServerView
from ppcmi.codec.codec import Codec
from ppcmi.scales import Profile

Scope = Literal["consortium", "site"]
"""Who shares a codec and an inner key (DESIGN)."""

NOISES = (0.1, 0.5, 1.0)
NO_PROTECTION, PUBLISHED, LINK_ALONE = "no protection", "KLT as published", "link layer alone"
WITHOUT_CODEC, WITH_CODEC = "server without the codec", "server with the codec"

_ATTACKER = 1 << 40
"""Sets the attacker's randomness apart from the site's keys, which the same seed gives."""


def two_layers(profile: Profile, noise: float = 0.0) -> str:
    """The defense's name for a privacy profile."""
    return f"two layers, {profile.value}" + (f", noise {noise:g}" if noise else "")


def server_settings(profile: Profile) -> tuple[str, str]:
    """The names of the rows where the server itself looks at what leaves in a privacy profile."""
    defense = two_layers(profile)
    return f"{defense}; {WITHOUT_CODEC}", f"{defense}; {WITH_CODEC}"


def settings_of(
    codec: Codec,
    *,
    scope: Scope,
    profiles: Sequence[Profile],
    noises: Sequence[float] = NOISES,
    published: Codec | None = None,
) -> list[Setting]:
    """All rows.

    :param codec: the attacked site's.
    :param profiles: privacy profiles to compare; noise is tried with ``coarse`` if it is among them, else the last.
    :param noises: standard deviations relative to the latents'.
    :param published: the codec for the published protocol; None takes ``codec``.
    """
    noisy = Profile.COARSE if Profile.COARSE in profiles else profiles[-1]
    return [
        *reference_settings(codec, published or codec),
        *(row for profile in profiles for row in product_settings(codec, profile, scope)),
        *(row for noise in noises for row in product_settings(codec, noisy, scope, noise)),
    ]


def reference_settings(codec: Codec, published: Codec) -> list[Setting]:
    """What the product is compared with; all scales leave."""
    identity, network, server = codec.task.identity, Observer.NETWORK, Observer.SERVER
    whole, paper = Profile.FULL, Profile.PAPER
    fresh = NetworkView(identity, PlainView())
    return [
        Setting("no protection", NO_PROTECTION, network, whole, codec, True, True, PlainView()),
        Setting("KLT as published; network", PUBLISHED, network, paper, published, True, True, PublishedView(identity)),
        Setting("KLT as published; its server", PUBLISHED, server, paper, published, True, True, PlainView()),
        Setting("link layer alone; network", LINK_ALONE, network, whole, codec, True, False, fresh),
    ]


def product_settings(codec: Codec, profile: Profile, scope: Scope, noise: float = 0.0) -> list[Setting]:
    """The two-layer KLT at one privacy profile, by observer."""
    identity, defense = codec.task.identity, two_layers(profile, noise)
    inner = ServerView(identity)

    def row(observer: Observer, words: str, protect: Protect, *, known: bool = True, fixed: bool = True) -> Setting:
        seen = NoisyView(noise, protect) if noise else protect
        return Setting(f"{defense}; {words}", defense, observer, profile, codec, known, fixed, seen, noise)

    rows = [row(Observer.SERVER, WITHOUT_CODEC, inner, known=False), row(Observer.SERVER, WITH_CODEC, inner)]
    if not noise:
        rows.insert(0, row(Observer.NETWORK, "network", NetworkView(identity, inner), fixed=False))
    if scope == "consortium":
        rows.append(row(Observer.COLLUSION, "server with a member", PlainView()))
    return rows


def knowledge_of(
    setting: Setting,
    subjects: Subjects,
    surrogate: Codec,
    seed: int,
    leaked: int = 20,
    encode: Encode = Codec.encode_images,
) -> Knowledge:
    """What the setting's observer has; the victims are seen with ``setting.look(slices, case, site_keys=seed)``.

    :param surrogate: a codec trained on ``subjects.outside``.
    :param leaked: cases of the site whose images the attacker got hold of, at most half of those collected.
    """
    generator = torch.Generator().manual_seed(seed + _ATTACKER)
    sent = subjects.collected
    order = torch.randperm(sent.cases, generator=generator)
    known = torch.isin(sent.case, order[: leaked_cases(subjects, leaked)])
    seen = setting.look(sent.slices, sent.case, site_keys=seed, encode=encode)
    return Knowledge(
        slices=subjects.outside.slices,
        labels=subjects.outside.labels,
        case=subjects.outside.case,
        codec=setting.codec if setting.codec_known else None,
        surrogate=surrogate,
        protect=setting.protect,
        pairs=Pairs(
            sent.slices[known],
            seen.select(torch.nonzero(known)[:, 0]),
            None if sent.labels is None else sent.labels[known],
        ),
        collected=seen.select(torch.nonzero(~known)[:, 0]),
        generator=generator,
    )


def leaked_cases(subjects: Subjects, most: int) -> int:
    """How many of the collected cases leaked: at most half of them."""
    return min(most, subjects.collected.cases // 2)
