"""How long, how much memory, against what: ``python -m internimage.bench``."""
