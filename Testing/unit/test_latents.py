"""Stacks of latents: put together in order, and asked whether they are numbers at all."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppcmi.latents import Latents, concatenate, is_finite
from support.bundles import make_latents


def test_stacks_are_put_together_in_order():
    whole = make_latents(slices=5)
    parts = [whole.select(slice(0, 2)), whole.select(slice(2, 3)), whole.select(slice(3, 5))]
    for scale, values in concatenate(parts).items():
        assert torch.equal(values, whole[scale])


def test_a_single_stack_is_not_copied():
    only = make_latents(slices=2)
    assert all(values is only[scale] for scale, values in concatenate([only]).items())


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@given(data=st.data())
def test_one_value_that_is_not_finite_is_found_among_any_others(kind, data):
    width = np.dtype(kind).itemsize * 8
    values = torch.from_numpy(data.draw(arrays(kind, st.integers(1, 40), elements=st.floats(width=width))))
    assert is_finite(values) == bool(torch.isfinite(values).all())
    assert Latents({"b": values.reshape(-1, 1, 1, 1)}).finite == is_finite(values)
