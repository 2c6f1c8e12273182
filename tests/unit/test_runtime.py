"""Run times are sums of Snakemake's own benchmark files."""

import pytest

from lpsteps.errors import LpstepsError
from lpsteps.runtime import (
    RuleTime,
    job_seconds,
    median_seconds,
    readable_duration,
    rule_times,
    times_markdown,
)

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
    assert times_markdown(times).splitlines()[2:] == [
        "| `evaluate` | 2 | 30 | 250 MB |",
        "| `calibrate` | 1 | 2 | 100 MB |",
        "| all | 3 | 32 | 250 MB |",
    ]


def test_files_without_a_time_are_left_out_and_short_rows_count(tmp_path):
    for name, content in (
        ("calibrate/whole.tsv", f"{HEAD}1.5\t0:00:01\t100.0\t-\n"),
        ("calibrate/empty.tsv", ""),
        ("calibrate/head.tsv", HEAD),
        ("calibrate/row.tsv", f"{HEAD}7.5\t0:0"),
        ("calibrate/column.tsv", "s\n8.5\n"),
        ("evaluate/empty.tsv", ""),
        ("evaluate/other.tsv", "\xff"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("latin-1"))
    assert rule_times(tmp_path) == [RuleTime("calibrate", 3, 17.5, 100.0)]
    assert median_seconds(tmp_path) == {"calibrate": 7.5}
    for name in ("whole", "row", "column"):
        (tmp_path / f"calibrate/{name}.tsv").unlink()
    with pytest.raises(LpstepsError, match="no job has been measured yet"):
        rule_times(tmp_path)


def test_nothing_measured_is_one_clear_line(tmp_path):
    with pytest.raises(LpstepsError, match="no job has been measured yet"):
        rule_times(tmp_path)


def test_median_of_a_step_leaves_out_what_was_not_measured(tmp_path):
    for name, seconds in (("a", "1.0"), ("b", "4.0"), ("sub/c", "10.0"), ("d", "NA")):
        path = tmp_path / f"calibrate/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEAD}{seconds}\t0:00:01\t1.0\t-\n")
    assert median_seconds(tmp_path) == {"calibrate": 4.0}
    assert job_seconds(tmp_path / "calibrate/b.tsv") == 4.0
    assert job_seconds(tmp_path / "calibrate/d.tsv") is None
    assert job_seconds(tmp_path / "calibrate/none.tsv") is None
    (tmp_path / "calibrate/b.tsv").write_text("")
    assert job_seconds(tmp_path / "calibrate/b.tsv") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_durations_are_told_in_two_units(seconds, text):
    assert readable_duration(seconds) == text
