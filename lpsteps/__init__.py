"""LinearPatch as a workflow: calibrate, select layers, repair the cut, evaluate, report."""
