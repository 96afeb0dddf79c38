"""Sealed messages open for one key and one purpose; both ends of a link agree on one key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcmi.errors import BundleError, KeyMismatchError
from ppcmi.sealing import agree, fingerprint, new_private_key, open_sealed, public_key_of, seal

few_examples = settings(max_examples=20, deadline=None)
PRIVATE, OTHER_PRIVATE = bytes(range(32)), bytes(range(1, 33))
PUBLIC, OTHER_PUBLIC = public_key_of(PRIVATE), public_key_of(OTHER_PRIVATE)


def test_public_keys_are_those_of_rfc_7748_section_6_1():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    assert public_key_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


@given(plaintext=st.binary(max_size=200), context=st.binary(max_size=20))
@few_examples
def test_a_sealed_message_opens_with_its_key_and_context(plaintext, context):
    sealed = seal(PUBLIC, plaintext, context)
    assert len(sealed) == len(plaintext) + 48
    assert open_sealed(PRIVATE, sealed, context) == plaintext


@given(plaintext=st.binary(min_size=8, max_size=50))
@few_examples
def test_another_key_or_context_does_not_open_it(plaintext):
    sealed = seal(PUBLIC, plaintext, b"purpose")
    with pytest.raises(KeyMismatchError):
        open_sealed(OTHER_PRIVATE, sealed, b"purpose")
    with pytest.raises(KeyMismatchError):
        open_sealed(PRIVATE, sealed, b"another purpose")


@given(position=st.integers(0, 47 + 10), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_an_altered_message_does_not_open(position, bit):
    sealed = bytearray(seal(PUBLIC, b"ten bytes!", b"purpose"))
    sealed[position] ^= 1 << bit
    with pytest.raises((KeyMismatchError, BundleError)):
        open_sealed(PRIVATE, bytes(sealed), b"purpose")


@given(cut=st.integers(0, 57))
@few_examples
def test_a_cut_message_does_not_open(cut):
    with pytest.raises((KeyMismatchError, BundleError)):
        open_sealed(PRIVATE, seal(PUBLIC, b"ten bytes!", b"purpose")[:cut], b"purpose")


def test_the_same_message_never_looks_the_same():
    assert len({seal(PUBLIC, b"message", b"") for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "public", [b"", bytes(31), bytes(32), (1).to_bytes(32, "little")], ids=["empty", "short", "zero", "one"]
)
def test_public_keys_that_are_no_keys_are_refused(public):
    with pytest.raises(BundleError, match="public key"):
        seal(public, b"message", b"")
    with pytest.raises(BundleError, match="public key"):
        agree(PRIVATE, public, b"")


def test_both_ends_agree_on_a_key_that_depends_on_keys_and_context():
    key = agree(PRIVATE, OTHER_PUBLIC, b"link")
    assert key == agree(OTHER_PRIVATE, PUBLIC, b"link")
    assert len(key) == 32
    third = public_key_of(new_private_key())
    assert (
        len(
            {
                key,
                agree(PRIVATE, OTHER_PUBLIC, b"other"),
                agree(PRIVATE, third, b"link"),
                agree(PRIVATE, PUBLIC, b"link"),
            }
        )
        == 4
    )


def test_fingerprints_are_six_groups_of_four_that_tell_keys_apart():
    assert fingerprint(PUBLIC) == fingerprint(PUBLIC)
    assert fingerprint(PUBLIC) != fingerprint(OTHER_PUBLIC)
    groups = fingerprint(PUBLIC).split("-")
    assert [len(group) for group in groups] == [4] * 6
    assert all(set(group) <= set("0123456789abcdef") for group in groups)


def test_private_keys_are_fresh():
    assert len({new_private_key() for _ in range(10)}) == 10
