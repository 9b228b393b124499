"""Experiments, one a file; `base.py` holds every default with its unit."""
