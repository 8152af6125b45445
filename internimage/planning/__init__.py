"""How much memory training takes, and what to change where it does not fit."""
