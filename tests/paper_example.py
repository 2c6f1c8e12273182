"""The paper's profile with made-up scores: a page as large as pages get."""

from __future__ import annotations

import math
import random
from typing import Any
from unittest import mock

from report_example import ROOT

from lpsteps import jobs
from lpsteps.config import Config, load_config, read_yaml
from lpsteps.evaluation.score import Score
from lpsteps.plan import Plan
from lpsteps.report import significance
from lpsteps.report.definitions import read_table
from lpsteps.report.evidence import Evidence, Sourced, parse_build_spec
from lpsteps.report.payload import build_payload
from lpsteps.report.published import read_published

MODELS, DOCUMENTS, WINDOWS = 6, 40, 10


def everything() -> Config:
    """Return the profile of the paper with six of its models in all of its tables."""
    path = "config/paper.yaml"
    content = read_yaml(ROOT / path)
    models = sorted({model for table in content["tables"].values() for model in table})[:MODELS]
    tables = {
        table: {model: max(counts.values(), key=len) for model in models}
        for table, counts in content["tables"].items()
        if table.startswith("table")
    }
    return load_config({**content, "tables": tables, "figures": {}}, [path], ROOT)


def payload() -> dict[str, Any]:
    """Return ``tables.json`` of the paper's profile, with a score wherever it plans one."""
    config = everything()
    spec = parse_build_spec(jobs.build_tables_spec(config))
    layers = {model: facts.n_layers for model, facts in spec.models.items()}
    evidence = Evidence(
        folders={variant.key: folder for folder, variant in spec.variants.items()},
        plan_folders={plan.key: folder for folder, plan in spec.plans.items()},
        scores={
            (variant.folder, benchmark): _sourced(
                f"{variant.folder}/scores/{benchmark}.json", _score(config, variant, benchmark)
            )
            for variant, benchmarks in jobs.variants(config).items()
            for benchmark in benchmarks
        },
        plans={
            plan.key: _sourced(
                f"{folder}/plan.json",
                Plan.removing(
                    layers[plan.model],
                    range(layers[plan.model] - plan.n - 2, layers[plan.model] - 2),
                ),
            )
            for folder, plan in spec.plans.items()
        },
        patches={},
        curves={},
    )
    definitions = [read_table(path) for path in sorted((ROOT / "reports/tables").glob("*.yaml"))]
    definitions = [definition for definition in definitions if definition.id in spec.tables]
    definitions.sort(key=lambda definition: (definition.number is None, definition.id))
    printed = [
        cell
        for path in sorted((ROOT / "reports/published").glob("*.csv"))
        for cell in read_published(path)
    ]
    digests = {cell.path: "0" * 64 for cell in printed}
    # What the many thousands of comparisons say is of no matter here.
    with mock.patch.object(significance, "RESAMPLES", 500):
        built = build_payload(spec, definitions, printed, digests, evidence)
    sources = {cell["source"]["path"] for cell in built["cells"] if cell["source"]}
    artifacts = {
        path: {"sha256": "0" * 64, "bytes": 1000, "inputs": []} for path in sorted(sources)
    }
    return {
        **built,
        "figures": [],
        "artifacts": artifacts,
        "run": {**built["run"], "commits": [], "machines": []},
    }


def _sourced(path: str, content: Any) -> Sourced[Any]:
    return Sourced(path, f"{hash(path) & (2**256 - 1):064x}"[:64], content)


def _score(config: Config, variant: jobs.Variant, benchmark: str) -> Score:
    own = random.Random(f"{variant.folder}/{benchmark}")
    perplexity = config.benchmarks[benchmark].protocol == "perplexity"
    count = WINDOWS if perplexity else DOCUMENTS
    if perplexity:
        values = [2 + variant.n / 10 + own.gauss(0, 0.3) for _ in range(count)]
        value, unit = math.exp(math.fsum(values) / count), "perplexity"
    else:
        values = [float(own.random() < 0.7 - variant.n / 40) for _ in range(count)]
        value, unit = 100 * math.fsum(values) / count, "percent"
    return Score(
        model=variant.model,
        variant=variant.folder,
        benchmark=benchmark,
        protocol="perplexity" if perplexity else "harness",
        metric="perplexity" if perplexity else "acc",
        value=value,
        stderr=1.5,
        n=count,
        limited=True,
        total=10 * count,
        unit=unit,
        settings={"shots": 0, "add_bos": True, "harness": "0.4.13", "task_version": 1},
        samples={"ids": list(range(count)), "values": values},
    )
