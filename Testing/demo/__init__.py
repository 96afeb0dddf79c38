"""The demo: three sites and a server on one machine, by the commands that a site and an operator would type."""
