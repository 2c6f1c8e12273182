"""What the documentation names is there: links, headings, files, rules, commands, options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import typer
from guide import blocks
from project import CHECKOUT

from lpsteps import paths

PAGES = sorted(
    str(path.relative_to(CHECKOUT))
    for path in (
        *CHECKOUT.glob("*.md"),
        *CHECKOUT.glob("docs/*.md"),
        *CHECKOUT.glob("reports/*/*.md"),
    )
)

# Options of other programs, and of Snakemake's plugins, that the documentation shows.
OTHER_OPTIONS = {
    "conda": {"-f"},
    "lm_eval": {"--include_path", "--limit", "--samples"},
    "hf": {"--revision", "--local-dir", "--include"},
    "kubernetes": {"--kubernetes-namespace", "--kubernetes-service-account-name"},
    "pip": {"-r", "-e", "--no-deps"},
    "pytest": {"-m", "-n", "--dist", "--no-loadscope-reorder"},
    "rocrate-validator": {"-p"},
    "slurm": {"--slurm-status-command"},
}

# Files that a reader makes: by a command, or under a name of their own.
MADE_BY_HAND = {
    "config/my-profile.yaml",
    "lpsteps/width/my_pruning.py",
    "mergekit.yaml",
    "reports/published/two-repairs.csv",
    "reports/tables.crate.zip",
}


@cache
def prose(page: str) -> str:
    """A page without its fenced blocks."""
    text = (CHECKOUT / page).read_text()
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_spans(page: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def command_lines(page: str) -> Iterator[str]:
    """Everything that a reader might type, without what is printed."""
    yield from code_spans(page)
    for block in blocks(page):
        if block.language in ("", "sh", "console"):
            lines = block.text.replace("\\\n", " ").splitlines()
            if block.language == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            for line in lines:
                yield from re.split(r" [|&;>]+ ", line.partition(" #")[0])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (CHECKOUT / page).parent / path if path else CHECKOUT / page
        assert file.exists(), f"{page}: {target}: no such file"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}: no such heading"


def of_results() -> list[str]:
    """The files and folders of the results tree, with wildcards as in the rules."""
    folder = paths.lineage_folder("{model}", "{lineage}")
    inside = {"folder": folder, "of_plan": folder, "manifest": paths.patch(folder)}
    return [
        function(**{name: inside.get(name, f"{{{name}}}") for name in signature.parameters})
        for _, function in inspect.getmembers(paths, inspect.isfunction)
        for signature in [inspect.signature(function)]
    ]


@cache
def made_by_rules() -> list[re.Pattern[str]]:
    """Patterns of the files that the rules make, and of the folders that they are in."""
    text = "".join(path.read_text() for path in (CHECKOUT / "workflow/rules").glob("*.smk"))
    files = re.findall(r'"((?:results|resources|logs|reports)/[^"]+)"', text)
    files += of_results()
    names = {str(path) for file in files for path in (Path(file), *Path(file).parents)}
    # A file of a variant lies in the folder of its lineage.
    wildcard = re.compile(r"\\{+\w+(?:\.\w+)?\\}+")
    return [re.compile(wildcard.sub(".+", re.escape(name))) for name in names]


@cache
def written_by_guides() -> set[str]:
    return {
        block.attributes["file"]
        for page in PAGES
        for block in blocks(page)
        if "file" in block.attributes
    }


def is_there(name: str) -> bool:
    """Whether a file or folder is in the checkout, or made by a run or a guide."""
    if name.rstrip("/") in written_by_guides() | MADE_BY_HAND or any(
        CHECKOUT.glob(name.rstrip("/"))
    ):
        return True
    name = re.sub(r"<\w+>/$", "", name)
    sample = re.sub(r"\{\w+\}|\*|\.\.\.|<\w+>", "x", name.rstrip("/"))
    return any(pattern.fullmatch(sample) for pattern in made_by_rules())


FOLDERS = "benchmarks|config|docs|logs|lpsteps|profiles|reports|resources|results|tests|workflow"


@pytest.mark.parametrize("page", PAGES)
def test_files_are_there(page: str):
    for span in code_spans(page):
        if re.fullmatch(rf"(?:{FOLDERS})/[^\s]*", span):
            assert is_there(span), f"{page}: {span}"
        elif re.fullmatch(r"[\w.-]+\.(?:py|smk|yaml|lock|cff)", span):
            found = span in MADE_BY_HAND or any(CHECKOUT.rglob(span))
            assert found, f"{page}: {span}: nowhere in the project"


@cache
def rules() -> set[str]:
    text = "".join(path.read_text() for path in (CHECKOUT / "workflow/rules").glob("*.smk"))
    steps = {path.stem for path in (CHECKOUT / "lpsteps/steps").glob("*.py")}
    return {*re.findall(r"^rule (\w+):", text, flags=re.MULTILINE), *steps - {"__init__"}}


# The reference lists keys, some of which begin like a rule.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/config.md"])
def test_rules_are_there(page: str):
    verbs = {rule.partition("_")[0] for rule in rules()} - {"build"}
    for span in code_spans(page):
        if re.fullmatch(rf"(?:{'|'.join(sorted(verbs))})_[a-z_]+", span):
            assert span in rules(), f"{page}: {span}: no such rule"


@cache
def lpsteps_options() -> dict[str, set[str]]:
    """The options of each command of `lpsteps`."""
    from lpsteps.cli import app

    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@cache
def snakemake_options() -> set[str]:
    from snakemake.cli import get_argument_parser

    return set(get_argument_parser()._option_string_actions)


def make_targets() -> set[str]:
    text = (CHECKOUT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):|^\$\(\w+:%=([a-z-]+%)\):", text, flags=re.MULTILINE)
    return {plain or pattern for plain, pattern in targets}


def known_options(program: str, arguments: list[str]) -> set[str] | None:
    """The options that a program has, None for a program that is not looked at."""
    if program == "lpsteps":
        command = next((word for word in arguments if not word.startswith("-")), "")
        assert command in lpsteps_options(), f"lpsteps {command}: no such command"
        return lpsteps_options()[command]
    if program == "snakemake":
        return snakemake_options()
    return OTHER_OPTIONS.get(program)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_are_there(page: str):
    for line in command_lines(page):
        words = line.split()
        if not words or "=" in words[0]:
            continue
        program, arguments = words[0], words[1:]
        options = {word for word in arguments if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        known = known_options(program, arguments) if arguments else None
        if known is not None:
            assert options <= known, f"{page}: {line}: {sorted(options - known)}"
        if program == "make" and arguments:
            targets = [word for word in arguments if not set("=.") & set(word)]
            for target in targets[:1]:
                known_target = any(
                    fnmatch(target, pattern.replace("%", "*")) for pattern in make_targets()
                )
                assert known_target, f"{page}: {line}"
        if program == "python" and arguments[:1] == ["-m"]:
            module = CHECKOUT / arguments[1].replace(".", "/")
            assert module.with_suffix(".py").is_file() or module.is_dir(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_options_by_themselves_are_there(page: str):
    known = snakemake_options().union(*lpsteps_options().values(), *OTHER_OPTIONS.values())
    for span in code_spans(page):
        if re.match(r"--[a-z]", span):
            assert span.split()[0] in known, f"{page}: {span}"
