"""One program per rule of the workflow, named after it; run by hand with `python -m`."""

import sys

from lpsteps.garbage_collection import collect_rarely

# What the program's name is while `python -m` looks for its module, of which this package is the
# first part: so before the program's imports, and not where a step is imported.
if sys.argv[:1] == ["-m"]:
    collect_rarely()
