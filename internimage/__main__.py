"""``python -m internimage`` is the command ``internimage``."""

from .cli.main import main

main()
