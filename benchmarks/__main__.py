"""`python -m benchmarks`, which is what `make bench` runs."""

import sys

from benchmarks.otp import main

sys.exit(main(sys.argv[1:]))
