"""Width pruning methods, one module each; see :mod:`lpsteps.width.base`."""
