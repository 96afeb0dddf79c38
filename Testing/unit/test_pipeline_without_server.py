"""A site whose predictions give the server's answer no share: its own network segments, and nothing leaves."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ppcmi.codec.refinement import SiteDecoder
from ppcmi.errors import CancelledError
from ppcmi.pipeline import run, segment
from ppcmi.slicing import restore_probabilities, slice_volume
from support.private_link import link_to, noise_volume, untrained_codec

SLICES = 11


class NeverAsked:
    """A server that must not be asked."""

    def map_bundle(self, *_):
        pytest.fail("latents left the site")

    def abort(self):
        """Nothing is under way."""


@pytest.mark.parametrize("worker", [None, ThreadPoolExecutor(max_workers=1)], ids=["caller", "worker"])
def test_where_the_server_s_share_is_none_nothing_leaves_and_the_result_is_the_site_s_own(worker):
    a_codec, a_volume = untrained_codec(), noise_volume(SLICES)
    decoder = SiteDecoder(a_codec, {"coarse": 0.0})
    link = dataclasses.replace(link_to(NeverAsked(), a_codec, decoder=decoder), slices_per_bundle=4)
    steps = segment(a_volume, link, with_probabilities=True, worker=worker)
    told = []
    result = run(steps, told.append)
    slices, grid = slice_volume(a_volume, a_codec.task)
    expected = restore_probabilities(decoder.alone(torch.as_tensor(slices)).numpy(), grid)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert result.labels.geometry.matches(a_volume.geometry, tolerance_mm=0)
    assert (result.progress.bytes_sent, result.progress.done) == (0, SLICES)
    assert result.provenance["model"] == "none, the site's own network"
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    with pytest.raises(CancelledError):
        run(segment(a_volume, link, cancelled=lambda: True))
