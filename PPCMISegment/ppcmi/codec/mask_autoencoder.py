"""Mask autoencoder of our codecs: a linear encoder and a decoder that also sees the site's own image.

The encoder cuts the foreground channels of a one-hot mask into blocks of 8, 16 and 32 pixels and projects each block on
an orthonormal basis (one for each scale). Because it is linear, the encoding of an average of masks is the average of
their encodings: the mean squared error that the server's network minimizes has its optimum at the encoding of the
*probability map*, and the decoder gets soft masks where the network is unsure instead of a point off the manifold.
Because it is orthonormal, squared errors of latents are squared errors of masks. Nothing is trained, nothing collapses.

The basis holds the principal components of the blocks' discrete cosine transform, with a smooth prior for what a few
training masks do not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppcmi.codec.blocks import convolution_stage
from ppcmi.latents import Latents
from ppcmi.scales import SCALE_CHANNELS, SCALE_STRIDES, SCALES

MAXIMUM_COEFFICIENTS = 2048
"""Cosine coefficients of one block over all classes that the principal components are taken from."""

PRIOR_WEIGHT = 0.02
"""Share of the covariance's trace that the smooth prior adds."""


def foreground(labels: Tensor, classes: int) -> Tensor:
    """One-hot of the labels 1, 2, ...: ``(n, h, w)`` integers to ``(n, classes - 1, h, w)`` float32, contiguous."""
    one_hot = F.one_hot(labels.long(), classes)[..., 1:]
    return one_hot.permute(0, 3, 1, 2).float().contiguous()


class MaskEncoder(nn.Module):
    """Foreground channels ``(n, K, h, w)`` in [0, 1], hard or soft, to latents; and the adjoint back."""

    def __init__(self, foreground_classes: int) -> None:
        super().__init__()
        self.foreground_classes = foreground_classes
        for scale in SCALES:
            block, channels = SCALE_STRIDES[scale], SCALE_CHANNELS[scale]
            self.register_buffer(f"basis_{scale}", torch.zeros(channels, foreground_classes, block, block))

    def basis(self, scale: str) -> Tensor:
        """Orthonormal rows ``(C, K, B, B)``; rows of zeros where a block has fewer than ``C`` pixels."""
        basis: Tensor = getattr(self, f"basis_{scale}")
        return basis

    @torch.no_grad()
    def fit(self, masks: Tensor) -> None:
        """Choose the bases from example masks ``(n, K, h, w)``."""
        for scale in SCALES:
            self.basis(scale).copy_(block_basis(masks, SCALE_STRIDES[scale], SCALE_CHANNELS[scale]))

    def forward(self, masks: Tensor) -> Latents:
        """Encode; the latents are not standardized yet."""
        return Latents({s: F.conv2d(masks, self.basis(s), stride=SCALE_STRIDES[s]) for s in SCALES})

    def soft_masks(self, latents: Latents, scales: Sequence[str]) -> Tensor:
        """Each scale's own least-squares reconstruction ``(n, len(scales) * K, h, w)``, float32."""
        return torch.cat([self._blocks(s, latents[s]) for s in scales], dim=1)

    def _blocks(self, scale: str, values: Tensor) -> Tensor:
        """The adjoint of one scale: blocks do not overlap, so that one matrix product is enough."""
        count, channels, rows, columns = values.shape
        side = SCALE_STRIDES[scale]
        with torch.autocast(values.device.type, enabled=False):
            positions = values.float().permute(0, 2, 3, 1).reshape(-1, channels)
            blocks = positions @ self.basis(scale).flatten(1)
        blocks = blocks.view(count, rows, columns, self.foreground_classes, side, side)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(count, self.foreground_classes, rows * side, columns * side)


class MaskDecoder(nn.Module):
    """Mask latents of a profile's scales and the site's own slices to logits ``(n, K + 1, h, w)``.

    What it adds to the linear reconstruction starts at zero, so that a decoder of few training cases is never worse
    than that. The image enters through a few convolutions only: enough to place a boundary, too little to segment
    without the server's answer.

    :param stem: it works at this fraction of the resolution, between a pixel unshuffle and a pixel shuffle.
    """

    def __init__(
        self, image_channels: int, foreground_classes: int, scales: Sequence[str], stem: int, width: int = 32
    ) -> None:
        super().__init__()
        self.scales, self.stem = tuple(scales), stem
        self.image_stem = nn.Conv2d(stem**2 * image_channels, width, 3, padding=1)
        self.mask_stem = nn.Conv2d(stem**2 * foreground_classes * len(self.scales), width, 3, padding=1)
        self.stage = nn.Sequential(convolution_stage(width, width), convolution_stage(width, width))
        self.output = nn.Conv2d(width, stem**2 * (foreground_classes + 1), 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.sharpness = nn.Parameter(torch.tensor(8.0))

    def forward(self, soft_masks: Tensor, slices: Tensor) -> Tensor:
        """Logits; ``soft_masks`` as :meth:`MaskEncoder.soft_masks` gives them for this decoder's scales."""
        x = self.mask_stem(F.pixel_unshuffle(2 * soft_masks - 1, self.stem)) + self.image_stem(
            F.pixel_unshuffle(slices - 0.5, self.stem)
        )
        correction = F.pixel_shuffle(self.output(self.stage(x)), self.stem).float()
        mean = soft_masks.reshape(len(soft_masks), len(self.scales), -1, *soft_masks.shape[2:]).mean(dim=1)
        linear = torch.cat((1 - mean.sum(dim=1, keepdim=True), mean), dim=1)
        return torch.as_tensor(self.sharpness * linear + correction)


def block_basis(masks: Tensor, block: int, channels: int) -> Tensor:
    """Orthonormal basis ``(channels, K, block, block)`` for the blocks of ``masks`` ``(n, K, h, w)``."""
    classes = masks.shape[1]
    kept = min(block, math.isqrt(MAXIMUM_COEFFICIENTS // classes))
    cosine = _cosine_basis(block)[:kept]
    blocks = (
        masks.unfold(2, block, block)
        .unfold(3, block, block)
        .permute(0, 2, 3, 1, 4, 5)
        .reshape(-1, classes, block, block)
    )
    blocks = blocks[blocks.flatten(1).any(dim=1)].double()
    coefficients = torch.einsum("pu,nkuv,qv->nkpq", cosine, blocks, cosine).flatten(1)
    frequency = torch.arange(kept, dtype=torch.float64)
    prior = (1 + frequency[:, None] ** 2 + frequency[None, :] ** 2).pow(-1.5).repeat(classes, 1, 1).flatten()
    covariance = coefficients.T @ coefficients / max(1, len(coefficients))
    trace = covariance.diagonal().sum().clamp_min(1e-12)
    covariance = covariance + torch.diag(prior * (PRIOR_WEIGHT * trace / prior.sum()))
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :channels].T
    vectors = vectors.reshape(-1, classes, kept, kept)
    found = torch.einsum("pu,ckpq,qv->ckuv", cosine, vectors, cosine)
    basis = torch.zeros(channels, classes, block, block)
    basis[: len(found)] = found.float()
    return basis


def _cosine_basis(size: int) -> Tensor:
    """Orthonormal DCT-II matrix, float64: row ``p`` is frequency ``p``."""
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size
    matrix = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * position) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
