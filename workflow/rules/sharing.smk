"""Results that working copies share by Snakemake's cache have no file of their run time.

Snakemake takes no rule that has both, as a job that did not run has no time to state.
"""

for entry in workflow.rules:
    if entry.cache and entry.cache.output:
        # The directive `benchmark` cannot be switched off, nor set to nothing in another way.
        entry._benchmark = None
