"""How near a picture is to its slice, and how sure that is."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from ppcmi.audit.metrics import interval, mean_picture, picture_scores, ssim


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_equal_pictures_score_one_and_small_slices_have_fewer_scales():
    pictures = rand(2, 64, 64)
    scores = picture_scores(pictures, pictures)
    assert scores["SSIM"].tolist() == pytest.approx([1, 1])
    assert scores["SSIM, whole slice"].tolist() == pytest.approx([1, 1])
    assert scores["MS-SSIM"].tolist() == pytest.approx([1, 1])
    assert scores["PSNR"].tolist() == [100, 100]
    worse = picture_scores((pictures + 0.3).clamp(0, 1), pictures)
    assert all(float(worse[name].max()) < float(scores[name].min()) for name in scores)


def test_where_the_whole_slice_shows_something_similarity_is_the_librarys():
    true, shown = rand(2, 1, 64, 64)
    expected = structural_similarity(
        true[0].numpy(), shown[0].numpy(), data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(shown, true)) == pytest.approx(expected, abs=1e-5)


def test_a_black_surround_changes_no_similarity_and_makes_no_black_picture_good():
    """As outside an ultrasound's sector, where every picture that is black agrees with every other."""
    true, shown = rand(2, 1, 128, 128)
    true[:, :, 48:], shown[:, :, 48:] = 0, 0
    wide = torch.nn.functional.pad(torch.cat((true, shown)), (0, 128))
    assert float(ssim(wide[1:], wide[:1])) == pytest.approx(float(ssim(shown, true)), abs=1e-6)
    assert float(ssim(torch.zeros_like(true), true)) < 0.1
    assert float(picture_scores(wide[1:], wide[:1])["SSIM, whole slice"]) > float(ssim(shown, true)) + 0.2
    noise_around = shown.where(shown > 0, 0.05 * rand(1, 128, 128))
    assert float(ssim(noise_around, true)) > float(ssim(torch.zeros_like(true), true))


def test_of_a_blank_slice_everything_counts():
    blank = torch.full((1, 64, 64), 0.5)
    assert float(ssim(blank, blank)) == pytest.approx(1)
    assert float(ssim(rand(1, 64, 64), blank)) < 0.1


def test_an_interval_is_wider_where_slices_belong_to_few_patients():
    values = torch.randn(200, generator=torch.Generator().manual_seed(1)).repeat_interleave(2)
    patient = torch.arange(400) // 2
    mean, low, high = interval(values, patient, seed=1)
    assert low < mean < high
    naive = interval(values, torch.arange(400), seed=1)
    assert high - low > 1.2 * (naive[2] - naive[1])


def test_the_mean_picture_is_of_the_middle_channel():
    slices = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 1.0)])
    slices[:, 0] = 7
    assert torch.equal(mean_picture(slices), torch.full((4, 4), 0.5))
