"""Bytes at rest: blobs, keys, what is sealed under them, and disks that are full."""
