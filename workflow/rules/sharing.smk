"""Results that working copies share by Snakemake's cache.

They have no file of their run time: Snakemake takes no rule that has both, as a job that did not run
has no time to state. And code must not change between planning, which chooses the place of a result
in the cache, and the job.
"""

import json

if SHARED:
    os.environ[program.PLANNED_CODE] = json.dumps(package_digests())

for entry in workflow.rules:
    if entry.cache and entry.cache.output:
        # The directive `benchmark` cannot be switched off, nor set to nothing in another way.
        entry._benchmark = None
