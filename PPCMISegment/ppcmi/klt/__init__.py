"""The keyed latent transform (KLT): who can use latents. ``protect(z) = T_link(T_inner(z))`` (DESIGN).

``inner`` is the layer that the server cannot undo, ``link`` the one between site and server, ``published`` the paper's;
``derivation`` turns keys into their numbers.
"""
