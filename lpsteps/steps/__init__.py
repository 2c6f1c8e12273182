"""One program per rule of the workflow, named after it; run by hand with `python -m`."""

import sys

from lpsteps.garbage_collection import collect_rarely

# `python -m` imports this package first, while the program's name is still "-m". Where a step is
# imported from elsewhere, nothing changes.
if sys.argv[:1] == ["-m"]:
    collect_rarely()
