"""Mixup-Privacy (PAPER; MICCAI 2023, arXiv 2305.13756): what leaves is a mixture of two patches, nothing is encoded.

``x_mix = a x_target + (1 - a) x_reference`` with a reference whose segmentation the site knows; the server segments the
mixture, the site unmixes the answer. Kept to compare with: whoever reads a mixture sees both images shine through.
"""
