"""Layer selection: one module per metric, each with ``Params`` and ``rank()``."""
