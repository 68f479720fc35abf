"""`python -m optimum_htp` is `optimum-htp`."""

from __future__ import annotations

import sys

from optimum_htp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
