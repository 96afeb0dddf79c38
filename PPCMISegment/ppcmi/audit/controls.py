"""Checks of the suite itself (SECURITY 2.2): an audit that finds nothing may have looked badly.

Without any key an attack must see what the site sees; latents that are pure noise must give no more than a guess; and a
wrong key must keep even the rightful decoder from seeing anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppcmi.audit.attacks.alignment import BlindAlignment
from ppcmi.audit.attacks.channel_map import draw
from ppcmi.audit.attacks.plain_latents import Effort, PlainLatents
from ppcmi.audit.attacks.procrustes import KnownImages
from ppcmi.audit.document import Control
from ppcmi.audit.metrics import SSIM, ssim
from ppcmi.audit.reconstruction import Bench
from ppcmi.audit.setting import Observer, Setting
from ppcmi.audit.settings import NO_PROTECTION
from ppcmi.audit.views import PlainView, RandomView, ServerView
from ppcmi.codec.codec import Codec
from ppcmi.klt.inner import InnerLayer
from ppcmi.scales import Profile, Stream

SAME, NO_BETTER = 0.01, 0.02
"""Differences of SSIM that count as none."""

SEEN_BY_LEARNING = 0.5
"""Of what the own decoder sees above a guess: the share that a trained one must see for learned attacks to count."""
LEARNED = "A4 to A7"


@dataclass(frozen=True)
class Bounds:
    """What everything is measured between: mean SSIM of a guess, and of the site's own image decoder."""

    guess: float
    own: float


def bounds(bench: Bench, codec: Codec, profile: Profile = Profile.FULL) -> Bounds:
    """Of a profile."""
    plain = codec.encode_images(bench.subjects.victims.slices).of(profile)
    return Bounds(bench.chance[SSIM], _score(draw(codec, plain), bench))


def check_suite(bench: Bench, codec: Codec) -> list[Control]:
    """All controls that need no training.

    :param codec: one whose latents hold the image; of what a minimized codec sends there may be nothing to see.
    """
    found = bounds(bench, codec)
    black = _score(torch.zeros_like(bench.truth), bench)
    own, guess = found.own, found.guess
    return [
        Control("own decoder", "A codec's own decoder sees more than a guess (SSIM).", own, own > guess),
        Control("mean image", "The mean image is what guessing gives (SSIM).", guess, guess < own),
        Control("black image", "A black picture is worse than the own decoder's (SSIM).", black, black < own),
        _key_off(bench, codec, found),
        _random_latents(bench, codec, found),
        _wrong_key(bench, codec, found),
    ]


def check_learning(bench: Bench, codec: Codec, effort: Effort) -> Control:
    """Whether decoders that are trained here learn enough to judge by: A5 on plain latents.

    :param codec: as for :func:`check_suite`.
    """
    found = bounds(bench, codec)
    setting = Setting("key off", NO_PROTECTION, Observer.NETWORK, Profile.FULL, codec, True, True, PlainView())
    attempt = bench.attempt(setting, PlainLatents(effort))
    seen = float("nan") if attempt is None else attempt.finding(SSIM).value - found.guess
    least = SEEN_BY_LEARNING * (found.own - found.guess)
    expected = (
        f"Without a key, a decoder that is trained here sees at least {least:.2f} more than a guess, half of what the "
        "own decoder does (SSIM)."
    )
    return Control("trained decoder", expected, seen, seen >= least, LEARNED)


def _key_off(bench: Bench, codec: Codec, found: Bounds) -> Control:
    """A2 on plain latents reaches what the decoder itself reaches."""
    setting = Setting("key off", NO_PROTECTION, Observer.NETWORK, Profile.FULL, codec, True, True, PlainView())
    known = min(10, bench.known_cases)
    attempt = bench.attempt(setting, KnownImages(known))
    value = float("nan") if attempt is None else attempt.finding(SSIM).value - found.own
    expected = f"Without a key, known images give what the own decoder gives (SSIM, difference up to {SAME})."
    return Control("key off", expected, value, abs(value) <= SAME)


def _random_latents(bench: Bench, codec: Codec, found: Bounds) -> Control:
    """No attack gets anything out of latents that have nothing to do with the image."""
    setting = Setting("random latents", "random", Observer.NETWORK, Profile.FULL, codec, True, True, RandomView())
    attempts = [bench.attempt(setting, attack) for attack in (KnownImages(bench.known_cases), BlindAlignment())]
    value = max((attempt.finding(SSIM).value for attempt in attempts if attempt is not None), default=float("nan"))
    expected = f"Latents of pure noise give no more than the mean image (SSIM, by up to {NO_BETTER})."
    return Control("random latents", expected, value - found.guess, value <= found.guess + NO_BETTER)


def _wrong_key(bench: Bench, codec: Codec, found: Bounds) -> Control:
    """The rightful decoder behind the inverse of another inner key."""
    victims, task = bench.subjects.victims, codec.task.identity
    keyed = ServerView(task)(
        codec.encode_images(victims.slices).to("cpu"), victims.case, torch.Generator().manual_seed(1)
    )
    opened = InnerLayer(b"another key, of thirty-two bytes", task).invert(keyed, Stream.IMAGE)
    value = _score(draw(codec, opened), bench)
    expected = f"With a wrong inner key even the own decoder sees no more than a guess (SSIM, by up to {NO_BETTER})."
    return Control("wrong key", expected, value - found.guess, value <= found.guess + NO_BETTER)


def _score(pictures: Tensor, bench: Bench) -> float:
    return float(ssim(pictures, bench.truth).mean())
