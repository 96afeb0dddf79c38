"""PPCMI: private collaborative segmentation, the method and the client.

A case is read, sliced, encoded, protected, packed, sent, mapped, decoded, written; the modules carry those names.
Nothing here imports Slicer or Qt: the same code runs in Slicer, in batch, in the server and in tests.
"""

__version__ = "0.1.0"
