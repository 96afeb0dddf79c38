"""Cohorts: uploaded piece by piece, checked, whole or absent, withdrawn."""
