"""Recovery of a pruned model: one module per method, each with ``Params`` and ``build()``."""
