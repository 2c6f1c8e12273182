"""`snakemake --report` holds the page and the numbers of every table and figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import profile, snakemake


def test_report_is_one_file_made_without_network(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    report = tmp_path / "report.html"
    run = snakemake(finished, "reports/tables.html", "--report", str(report))
    assert run.returncode == 0, run.stdout
    text = report.read_text()
    content = profile()
    names = [f"{name}.csv" for kind in ("tables", "figures") for name in content[kind]]
    for name in ["tables.html", *names]:
        assert f'"name": "{name}"' in text, name
    for heading in ("Page", "Tables", "Figures", "Of the paper", "Of our own"):
        assert heading in text
    for caption in ("works offline", "unrounded", "drawn in the figure"):
        assert caption in text
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=\"http", text)
