"""The headless PPCMI service: stores protected latents, trains the unified mapping network and maps with it."""

from ppcmi import __version__

__all__ = ["__version__"]
