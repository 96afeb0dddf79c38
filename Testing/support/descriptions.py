"""What mapping networks are built for, from slices instead of from a data set."""

from collections.abc import Mapping, Sequence

from ppcmi.scales import SCALE_CHANNELS, Profile, scale_shapes
from ppcmi_server.umn.model import Preset, UmnDescription


def describe_umn(
    preset: Preset,
    profile: Profile,
    slice_size: Sequence[int],
    codecs: tuple[str, ...] = ("",),
    image_channels: Mapping[str, int] = SCALE_CHANNELS,
) -> UmnDescription:
    """For slices of ``(rows, columns)`` encoded by ``codecs`` to latents of ``image_channels``."""
    images, masks = (
        scale_shapes(slice_size, profile.scales, channels) for channels in (image_channels, SCALE_CHANNELS)
    )
    return UmnDescription(preset, profile, images, masks, codecs)
