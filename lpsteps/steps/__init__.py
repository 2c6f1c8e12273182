"""One program per rule of the workflow, named after it; run by hand with `python -m`."""
