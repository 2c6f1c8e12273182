"""Rules about imports that the promises of the project rest on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "lpsteps").rglob("*.py"))
DYNAMIC = {"importlib", "__import__", "exec", "eval", "runpy"}
ALLOWED = {"lpsteps/methods.py"}


def names_used(tree: ast.AST) -> set[str]:
    """Every name, attribute root and imported module of a tree, apart from importlib.metadata."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {alias.name for alias in node.names}
            if not (node.module == "importlib" and names <= {"metadata"}):
                found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_that_a_digest_cannot_see_is_not_run(path: Path):
    """A digest follows import statements; anything imported another way would escape it."""
    used = names_used(ast.parse(path.read_text())) & DYNAMIC
    if str(path.relative_to(ROOT)) not in ALLOWED:
        assert used == set()


def test_the_check_sees_a_dynamic_import():
    assert "importlib" in names_used(ast.parse("import importlib"))
    assert "importlib" in names_used(ast.parse("from importlib import import_module"))
    assert "__import__" in names_used(ast.parse("__import__('os')"))
    assert "importlib" not in names_used(ast.parse("from importlib import metadata"))


def test_method_packages_have_no_registry():
    """A package that imported its methods would make each result depend on all of them."""
    for package in ("selection", "recovery", "width"):
        tree = ast.parse((ROOT / "lpsteps" / package / "__init__.py").read_text())
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


# Package -> those that are built on it, which it must not import.
BUILT_ON = {
    "models": ("data", "jobs", "report"),
    "overheads": ("jobs", "report"),
    "report": ("jobs",),
}


@pytest.mark.parametrize("package", sorted(BUILT_ON))
def test_packages_import_in_one_direction(package: str) -> None:
    for path in sorted((ROOT / "lpsteps" / package).glob("*.py")):
        imported = {
            f"{node.module}.{alias.name}."
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for other in BUILT_ON[package]:
            assert not {name for name in imported if name.startswith(f"lpsteps.{other}.")}, path


STEP_DATA = {".yaml", ".yml", ".json", ".j2", ".css", ".js"}


def test_package_data_is_read_by_the_planner_alone():
    """Data files in the package reach a step through its spec, so that an edit of them reruns it."""
    data = {path for path in (ROOT / "lpsteps").rglob("*") if path.suffix in STEP_DATA}
    assert {path.parent.name for path in data} - {"__pycache__"} == {"benchmarks"}
    from lpsteps.fingerprint import closure

    for step in sorted((ROOT / "lpsteps/steps").glob("*.py")):
        assert "lpsteps.evaluation.benchmark" not in closure([f"lpsteps.steps.{step.stem}"])
