"""The attacks, a module each, all written against :mod:`ppcmi.audit.attacker`."""
