"""How long, how much memory, against what: ``internimage bench``."""
