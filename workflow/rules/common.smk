"""What all rules share: the checked config, code digests, the environment digest, name patterns."""

import os
import sys
from functools import cache

# Jobs run `python -m lpsteps...` with this interpreter and this checkout, activated or not.
sys.path.insert(0, workflow.basedir)
os.environ["PATH"] = os.pathsep.join(
    [os.path.dirname(sys.executable), os.environ["PATH"]]
)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")])
)

from pathlib import Path

from lpsteps import workflow as jobs
from lpsteps.config import load_config
from lpsteps.errors import LpstepsError
from lpsteps.fingerprint import closure, environment_digest

try:
    CONFIG = load_config(
        config, [os.path.relpath(path) for path in workflow.configfiles]
    )
    ENVIRONMENT = environment_digest(Path(workflow.basedir) / "requirements.lock")
except LpstepsError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(1)


# A model uses all cores of the machine by itself, so that results do not depend on --cores, and
# two such jobs at a time would only be in each other's way. A cluster's profile sets its own.
ALL_CORES = workflow.cores or 8


@cache
def code(*modules):
    """Digest of everything in the package that these modules import."""
    return closure(modules)


def record(path):
    """The provenance record that a step writes beside an output."""
    return f"{path}.record.json"


def alternatives(names):
    """A pattern that matches these names and no other."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def options(files, *names):
    """Command-line options `--name path` for those of a job's files that it has."""
    return " ".join(f"--{name} {files[name]}" for name in names if name in files)


wildcard_constraints:
    archive=alternatives(CONFIG.definitions.archives),
    model=alternatives(CONFIG.definitions.models),
    dataset=alternatives(CONFIG.definitions.datasets),
    corpus=alternatives(CONFIG.definitions.corpora),
    split=r"[A-Za-z0-9_-]+",
    calibration=alternatives(CONFIG.definitions.calibrations),
    selection=alternatives(CONFIG.definitions.selections),
    n=r"\d+",
    recovery=alternatives(CONFIG.definitions.recoveries),
    lineage=r"dense|calibration/[^/]+/selection/[^/]+/n\d+/[^/]+",
