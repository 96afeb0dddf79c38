"""Pictures of the Slicer module for the README and the user guide: ``make screenshots``."""
