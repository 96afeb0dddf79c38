"""Codecs: image and mask autoencoders of a consortium for a task, how they are trained, judged, stored and refined."""
