"""The page of measured times shows what the results hold, and says what has not been measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.measure import figure
from lpsteps.artifacts import read_json, write_json


def test_the_page_is_up_to_date() -> None:
    assert page.PAGE.read_text() == page.render(), "run `python -m benchmarks.page`"


def test_every_benchmark_has_a_program_and_a_section(tmp_path: Path) -> None:
    programs = {path.stem for path in Path(page.__file__).parent.glob("*.py")}
    assert set(page.BENCHMARKS) <= programs
    text = page.render(tmp_path)
    for name in page.BENCHMARKS:
        assert f"Not measured; run `make bench-{name}`." in text
    assert "What remains" not in text


def test_a_result_is_shown_with_its_limits_and_conditions(tmp_path: Path) -> None:
    result = {
        "commit": {"commit": "a" * 40, "date": "2026-01-02", "dirty": True},
        "figures": [
            figure("kept", 1.234567, at_most=1.5),
            figure("missed", 12345.6, "s", at_least=20000),
            figure("free", 0.0, "MB"),
        ],
        "libraries": {"numpy": "1", "torch": "2", "transformers": "3"},
        "machine": {"cores": 4, "processor": "Abacus"},
        "settings": {"gaps": [[1, 2], [5, 6]], "tokens_per_window": 8},
    }
    write_json(tmp_path / "perplexity.json", result)
    text = page.render(tmp_path)
    assert "| kept | 1.23 | at most 1.5 | yes |" in text
    assert "| missed | 12,346 s | at least 20,000 | **no** |" in text
    assert "| free | 0 MB |  |  |" in text
    assert "on Abacus, 4 cores; commit aaaaaaaaaaaa with edits;" in text
    assert "gaps: 1, 2, 5, 6; tokens per window: 8." in text
    assert "Not measured; run `make bench-perplexity`." not in text
    assert text.count("What remains") == 1
    assert "Known misses:\n\n- missed: 12,346 s; the limit is at least 20,000.\n" in text

    in_float32 = result | {"figures": [figure("in float32", 2.0)]}
    write_json(tmp_path / "perplexity-float32.json", in_float32)
    both = page.render(tmp_path)
    assert both.index("| kept | 1.23") < both.index("| in float32 | 2 |")
    assert both.count("What remains") == 1


def test_a_distillation_is_held_against_the_released_code(tmp_path: Path) -> None:
    result = read_json(page.RESULTS / "distillation.json")
    offline = "offline, further epoch"
    result["settings"]["dtype"] = "float32"
    result["speedup"] |= {"fused": 1.49, offline: 2.3}
    result["peak_memory_bytes"] |= {"official": 10**9, "fused": 10**9 + 2 * 10**6, offline: 10**9}
    write_json(tmp_path / "distillation.json", result)
    section = page.render(tmp_path).partition("## Distillation")[2].partition("\n## ")[0]
    assert "| fused, speed-up over the released code | 1.49 | at least 1.5 | **no** |" in section
    assert f"| {offline}, speed-up over the released code | 2.3 | at least 2.2 | yes |" in section
    assert (
        f"| {offline}, more peak memory than the released code | 0 MB | at most 0 | yes |"
        in section
    )
    assert section.endswith(
        "Known misses:\n\n"
        "- fused, speed-up over the released code, float32: 1.49; the limit is at least 1.5.\n"
        "- fused, more peak memory than the released code, float32: 2 MB; the limit is at most 0.\n"
    )
    for name in ("Official", "fused", "offline", "further epoch"):
        assert f"*{name}*" in section


@pytest.mark.parametrize("path", sorted(page.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_host_and_no_path(path: Path) -> None:
    assert path.stem.partition("-")[0] in page.BENCHMARKS
    result = read_json(path)
    assert set(result["machine"]) <= {"cores", "gpu", "processor"}
    assert "/" not in str(result["settings"])
