"""Mapping: a fair queue, one thread, and the models in memory."""
