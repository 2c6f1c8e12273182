"""The profile that an export is of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from minimal_tables import minimal_tables

from lpsteps import cli
from lpsteps.artifacts import write_json
from lpsteps.config import read_config
from lpsteps.errors import LpstepsError
from lpsteps.export.run import build

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("reports", "config"):
        Path(folder).mkdir()
    return tmp_path


def of_page(profile: str, **overrides: Any) -> None:
    content = minimal_tables(profile)
    content["run"]["overrides"] = overrides
    write_json(Path("reports/tables.json"), content)


@pytest.mark.usefixtures("project")
def test_an_export_is_of_the_page_that_is_there() -> None:
    """With another profile its scores would be made anew, on other samples."""
    assert cli._profile_of_page() == ([Path("config/config.yaml")], {})
    for name in ("full", "more"):
        Path(f"config/{name}.yaml").write_text("{}")
    of_page("config/full.yaml")
    assert cli._profile_of_page() == ([Path("config/full.yaml")], {})
    of_page("config/full.yaml, config/more.yaml", seed=7)
    files = [Path("config/full.yaml"), Path("config/more.yaml")]
    assert cli._profile_of_page() == (files, {"seed": 7})


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("profile", ["config/gone.yaml", "config/full.yaml, config/gone.yaml"])
def test_a_profile_that_is_gone_is_told(profile: str) -> None:
    Path("config/config.yaml").write_text("{}")
    Path("config/full.yaml").write_text("{}")
    of_page(profile)
    with pytest.raises(LpstepsError) as raised:
        cli.export_variant(model="m", variant="dense", to=Path("new"))
    assert str(raised.value) == (
        "reports/tables.json: run.profile: config/gone.yaml: no such file; restore the profile of "
        "the page, or name one with --configfile"
    )


@pytest.mark.usefixtures("project")
def test_a_named_profile_that_is_not_there_is_told() -> None:
    with pytest.raises(LpstepsError, match=r"--configfile: no/where\.yaml: no such file"):
        cli.export_variant(
            model="m", variant="dense", to=Path("new"), configfile=[Path("no/where.yaml")]
        )


def test_several_profiles_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later one overrides an earlier one key by key, as with Snakemake."""
    monkeypatch.chdir(ROOT)
    default = Path("config/config.yaml")
    before = read_config(default)
    more = tmp_path / "more.yaml"
    suite, benchmark = next(
        (name, next(iter(suite.benchmarks))) for name, suite in before.profile.suites.items()
    )
    more.write_text(f"seed: 7\nsuites: {{{suite}: {{benchmarks: {{{benchmark}: 3}}}}}}\n")
    config = read_config(default, more)
    assert config.source == f"{default}, {more}"
    assert read_config(default, more, overrides={"seed": 8}).profile.seed == 8
    assert config.profile.seed == 7 and config.profile.tables == before.profile.tables
    changed = dict(config.profile.suites[suite].benchmarks)
    assert changed.pop(benchmark) == 3
    assert changed.items() < dict(before.profile.suites[suite].benchmarks).items()


@pytest.mark.usefixtures("project")
def test_snakemake_gets_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(
        "subprocess.run",
        lambda command, **_: commands.append(command) or SimpleNamespace(returncode=0),
    )
    Path("Snakefile").touch()
    build(Path("m/manifest.json"), [Path("a.yaml"), Path("b.yaml")], "2")
    (command,) = commands
    assert command[3:] == [
        *("--cores", "2", "--configfile", "a.yaml", "b.yaml", "--", "m/manifest.json")
    ]
    build(Path("m/manifest.json"), [Path("a.yaml")], "2", {"seed": 7})
    assert commands[1][5:] == [
        *("--configfile", "a.yaml", "--config", "seed=7", "--", "m/manifest.json")
    ]


@pytest.mark.usefixtures("project")
def test_the_command_of_a_failed_run_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(returncode=1))
    Path("Snakefile").touch()
    with pytest.raises(
        LpstepsError, match=r"`snakemake .* --configfile 'my own\.yaml' -- m\.json`"
    ):
        build(Path("m.json"), [Path("my own.yaml")], "2")
