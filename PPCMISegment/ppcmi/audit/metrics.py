"""How near a reconstruction is to the image, and how sure that number is.

Structural similarity is Wang et al.'s of 2004 (Gaussian window 11 x 11, deviation 1.5; scikit-image), averaged over the
windows in which the slice shows something: outside an ultrasound's sector or a body two black pictures agree perfectly,
and a blank or blurred picture would score above one that shows the organ. The usual mean over all windows stands beside
it. MS-SSIM is Wang et al.'s of 2003 (torchmetrics) with as many scales as the slice is large enough for, of five, and
over everything. Intervals are bootstraps over patients: slices of one patient are not independent.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

SSIM, WHOLE_SSIM, PSNR, MS_SSIM = "SSIM", "SSIM, whole slice", "PSNR", "MS-SSIM"
HIGHEST_PSNR = 100.0
RESAMPLES = 1000

FLAT = 1e-3
"""A window of less deviation than this, a quarter of one of 256 gray values, shows nothing."""

_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_SIGMA = 1.5


def picture_scores(pictures: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Both kinds of SSIM, ``PSNR`` in dB (at most 100) and ``MS-SSIM`` of each slice, float64 ``(n,)``.

    :param pictures, truth: ``(n, h, w)`` in 0..1.
    """
    shown, true = pictures.detach().cpu().double().clamp(0, 1), truth.cpu().double()
    psnr = [_psnr(a.numpy(), b.numpy()) for a, b in zip(true, shown, strict=True)]
    weights = _multiscale_weights(min(truth.shape[1:]))
    multiscale = multiscale_structural_similarity_index_measure(
        shown[:, None].float(), true[:, None].float(), data_range=1.0, betas=weights, reduction="none", normalize="relu"
    )
    similarity = _similarities(shown, true)
    return {
        SSIM: similarity[:, 0],
        WHOLE_SSIM: similarity[:, 1],
        PSNR: torch.tensor(psnr, dtype=torch.float64),
        MS_SSIM: torch.as_tensor(multiscale).double().reshape(-1),
    }


def ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """SSIM alone of each slice, float64 ``(n,)``, where it shows something; of a blank slice, everywhere."""
    return _similarities(pictures.detach().cpu().double().clamp(0, 1), truth.cpu().double())[:, 0]


def interval(values: Tensor, patient: Tensor, seed: int) -> tuple[float, float, float]:
    """Mean, and the 2.5th and 97.5th percentile of the means of samples of patients drawn with replacement.

    :param values: ``(n,)``; those that are not a number are left out.
    :param patient: ``(n,)`` int64, whose each value is.
    :returns: three times NaN if no value is left.
    """
    known = torch.isfinite(values)
    values, patient = values[known].double(), patient[known]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    _, place = torch.unique(patient, return_inverse=True)
    patients = int(place.max()) + 1
    sums = torch.zeros(patients, dtype=torch.float64).index_add(0, place, values)
    counts = torch.bincount(place, minlength=patients).double()
    drawn = torch.randint(patients, (RESAMPLES, patients), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(values.mean()), low, high


def mean_picture(slices: Tensor) -> Tensor:
    """The mean ``(h, w)`` of the middle channel of slices ``(n, c, h, w)``: a guess by somebody who saw nothing."""
    return middle(slices).mean(dim=0)


def middle(slices: Tensor) -> Tensor:
    """``(n, h, w)``: the channel that is the slice itself, its neighbors being beside it."""
    return slices[:, slices.shape[1] // 2]


def _similarities(shown: Tensor, true: Tensor) -> Tensor:
    """``(n, 2)``: SSIM where the slice shows something, and of the whole slice."""
    pairs = [_similarity(a.numpy(), b.numpy()) for a, b in zip(true, shown, strict=True)]
    return torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)


def _similarity(true: NDArray[np.float64], shown: NDArray[np.float64]) -> tuple[float, float]:
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        true, shown, data_range=1.0, gaussian_weights=True, sigma=_SIGMA, use_sample_covariance=False, full=True
    )
    # scikit-image averages, too, over whole windows only.
    inside = (slice(_WINDOW // 2, -(_WINDOW // 2)),) * 2
    similarity, structure = similarity[inside], (_deviation(true) > FLAT)[inside]
    whole = float(similarity.mean())
    return (float(similarity[structure].mean()) if structure.any() else whole), whole


def _deviation(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the values in the window around each pixel."""
    mean, square = (gaussian_filter(p, _SIGMA, radius=_WINDOW // 2) for p in (picture, picture**2))
    deviation: NDArray[np.float64] = np.sqrt(np.maximum(square - mean**2, 0))
    return deviation


def _psnr(true: NDArray[np.float64], shown: NDArray[np.float64]) -> float:
    if (true == shown).all():
        return HIGHEST_PSNR
    ratio = peak_signal_noise_ratio(true, shown, data_range=1.0)  # type: ignore[no-untyped-call]
    return min(HIGHEST_PSNR, float(ratio))


def _multiscale_weights(size: int) -> tuple[float, ...]:
    """Weights of the scales at which a window still fits into the slice, together 1."""
    count = sum((_WINDOW - 1) * 2**scale < size for scale in range(len(_MS_SSIM_WEIGHTS)))
    chosen = _MS_SSIM_WEIGHTS[:count]
    return tuple(weight / sum(chosen) for weight in chosen)
