"""The ``ppcmi`` command: one file a command group."""
