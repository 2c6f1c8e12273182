"""Where artefacts lie: names that stored results and the records in them rely on."""

from __future__ import annotations

import string

from lpsteps import paths
from lpsteps.jobs import Variant


def test_a_path_reads_as_the_lineage_of_what_lies_there() -> None:
    of_plan = paths.plan_folder("m", "c", "s", 5)
    variant = paths.repaired_folder(of_plan, "r")
    assert paths.compute("m") == "results/m/compute.json"
    assert paths.overheads("m") == "results/m/overheads.json"
    assert paths.windows("m", "novels", "test") == "results/m/windows/novels/test.parquet"
    assert paths.extended_windows("m", "c") == "results/m/calibration/c/windows.parquet"
    assert paths.statistics("m", "c") == "results/m/calibration/c/stats.parquet"
    assert paths.ranking("m", "c", "s") == "results/m/calibration/c/selection/s/ranking.parquet"
    assert of_plan == "results/m/calibration/c/selection/s/n5"
    assert paths.plan(of_plan) == f"{of_plan}/plan.json"
    assert paths.token_scales(of_plan) == f"{of_plan}/token_scales.parquet"
    assert paths.moments(of_plan, "stream") == f"{of_plan}/moments/stream.manifest.json"
    assert paths.stored_targets(of_plan, "r", "k") == f"{of_plan}/teacher/r/k/manifest.json"
    assert paths.patch(variant) == f"{of_plan}/r/patch.manifest.json"
    assert paths.tensors(paths.patch(variant)) == f"{of_plan}/r/patch.safetensors"
    assert paths.training_curve(variant) == f"{of_plan}/r/training.parquet"
    assert paths.score(variant, "piqa") == f"{of_plan}/r/scores/piqa.json"
    assert paths.checkpoint(variant) == f"{of_plan}/r/checkpoint/manifest.json"
    less_width = paths.width_folder("m", "c", "w", 5)
    assert paths.width(less_width) == "results/m/calibration/c/width/w/n5/width.manifest.json"


def test_with_wildcards_the_pattern_matches_the_files_of_every_name() -> None:
    pattern = paths.plan_folder("{model}", "{calibration}", "{selection}", "{n}")
    fields = [field for _, field, _, _ in string.Formatter().parse(pattern) if field]
    assert fields == ["model", "calibration", "selection", "n"]
    names = {"model": "m", "calibration": "c", "selection": "s"}
    assert pattern.format(**names, n=5) == paths.plan_folder(**names, n=5)


def test_the_folder_of_a_variant_and_its_lineage_say_the_same() -> None:
    for variant in (
        Variant("m"),
        Variant("m", "c", "s", 5, "r"),
        Variant("m", "c", n=5, width="w"),
    ):
        lineage = variant.folder.removeprefix("results/m/")
        assert paths.lineage_folder("m", lineage) == variant.folder
        assert Variant.from_lineage("m", lineage) == variant
