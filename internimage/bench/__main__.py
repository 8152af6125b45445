"""``python -m internimage.bench``: the same as ``internimage bench``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from ..cli.main import app

    app(["bench", *sys.argv[1:]], prog_name="internimage")
