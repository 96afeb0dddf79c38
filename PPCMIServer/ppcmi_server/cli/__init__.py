"""Commands of an operator: ``ppcmi-server``."""
