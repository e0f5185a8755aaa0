"""`python -m bench`: see `bench.cli`."""

import sys

from bench.core.errors import EarbenchError

try:
    from bench.cli.app import main
except EarbenchError as e:  # what EARBENCH_EXTRA names can't be used
    print(f"Error: {e}", file=sys.stderr)
    sys.exit(2)

main()
