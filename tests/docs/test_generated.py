"""What `make reference` writes is up to date."""

from __future__ import annotations

import pytest
from project import CHECKOUT

from lpsteps.config_reference import reference_text
from lpsteps.rule_graph import rule_graph, with_graph


def test_the_reference_of_the_config():
    assert (CHECKOUT / "docs/config.md").read_text() == reference_text(), "run `make reference`"


@pytest.mark.parametrize(
    "profile", ["config/config.yaml", pytest.param("config/full.yaml", marks=pytest.mark.slow)]
)
def test_the_graph_of_the_rules(profile: str, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    page = (CHECKOUT / "docs/architecture.md").read_text()
    assert with_graph(page, profile, rule_graph(profile)) == page, "run `make reference`"
