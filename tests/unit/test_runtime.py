"""Run times are sums of Snakemake's own benchmark files."""

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.runtime import RuleTime, markdown, rule_times

HEAD = "s\th:m:s\tmax_rss\tmax_vms\n"


def test_jobs_of_a_rule_are_summed_and_the_longest_comes_first(tmp_path):
    for name, seconds, memory in (
        ("calibrate/a.tsv", "1.5", "100.0"),
        ("evaluate/x/y/z.tsv", "10.25", "NA"),
        ("evaluate/x/w.tsv", "20.0", "250.5"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEAD}{seconds}\t0:00:01\t{memory}\t-\n")
    times = rule_times(tmp_path)
    assert times == [RuleTime("evaluate", 2, 30.25, 250.5), RuleTime("calibrate", 1, 1.5, 100.0)]
    assert markdown(times).splitlines()[2:] == [
        "| `evaluate` | 2 | 30 | 250 MB |",
        "| `calibrate` | 1 | 2 | 100 MB |",
        "| all | 3 | 32 | 250 MB |",
    ]


def test_nothing_measured_is_one_clear_line(tmp_path):
    with pytest.raises(LpstepsError, match="no job has been measured yet"):
        rule_times(tmp_path)
