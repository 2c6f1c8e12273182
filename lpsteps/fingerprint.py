"""Digests of the code that a step runs, so that an edit reruns the steps it can change only.

Snakemake sees the text of a rule but none of the modules that its program imports. Each rule
therefore carries a parameter ``{module: digest}`` over the import closure of its program inside
this package. A digest is taken over the parsed source without comments, docstrings and formatting;
it includes the Python version, because the parse tree belongs to one.

``python -m lpsteps.fingerprint MODULE...`` lists a closure.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from lpsteps.errors import LpstepsError

# Not from __name__, which is __main__ on the command line.
PACKAGE = Path(__file__).resolve().parent.name
ROOT = Path(__file__).resolve().parent.parent
_DIGEST_LENGTH = 16
# The packages whose code results come from, as the lock file calls them.
_COMPUTING = frozenset(
    [
        "datasets",
        "gguf",
        "Jinja2",
        "lm_eval",
        "numpy",
        "pandas",
        "peft",
        "pyarrow",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "torch-pruning",
        "transformers",
    ]
)
# Where a node of the parse tree holds statements: blocks, and what itself consists of blocks.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def module_path(module: str) -> Path | None:
    """Return the source file of a module of this package, or None when there is no such module."""
    base = ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _tree_digest(tree: ast.Module) -> str:
    """Return a short digest of parsed source, whose docstrings are removed.

    Strings that stand for themselves after an attribute are docstrings, too.
    """
    for node in _statements(tree):
        for name in _BLOCKS:
            if hasattr(node, name):
                kept = [child for child in getattr(node, name) if not _is_docstring(child)]
                setattr(node, name, kept)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = f"{version}\n{ast.dump(tree, annotate_fields=False)}"
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _statements(node: ast.AST, *, for_type_checkers: bool = True) -> Iterator[ast.AST]:
    """Walk a node and the statements inside it, whose expressions hold no further statement.

    Args:
        node: A module or a statement.
        for_type_checkers: Whether to walk what only a type checker runs.
    """
    yield node
    for name in _BLOCKS:
        if (
            not for_type_checkers
            and name == "body"
            and isinstance(node, ast.If)
            and _is_type_checking(node.test)
        ):
            continue
        for child in getattr(node, name, ()):
            yield from _statements(child, for_type_checkers=for_type_checkers)


def _imported_modules(module: str, path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports, also inside functions, but not for type checkers only."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(tree, for_type_checkers=False):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def _parse(module: str, path: Path, modified: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a module and the modules that it imports from this package."""
    source = path.read_bytes()
    parsed = _Parsed.below(ROOT)
    sha256 = hashlib.sha256(source).hexdigest()
    if module not in parsed.modules or parsed.modules[module][0] != sha256:
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise LpstepsError(f"{path}:{error.lineno}: does not parse ({error.msg})") from error
        imported = dict.fromkeys(_imported_modules(module, path, tree))
        own = [name for name in imported if name.split(".")[0] == PACKAGE]
        parsed.modules[module] = (sha256, _tree_digest(tree), own)
        parsed.changed = True
    _, digest, imports = parsed.modules[module]
    return digest, tuple(imports)


class _Parsed:
    """What was found out about sources, kept beside their bytecode: parsing them takes seconds.

    An entry holds as long as the source has the same bytes, and all hold for one Python and one
    version of this module.

    Attributes:
        modules: By module, the SHA-256 of its source, its digest and what it imports.
        changed: Whether there is more than in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._valid_for = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        self.modules: dict[str, tuple[str, str, list[str]]] = {}
        self.changed = False
        # Whatever else is in the file is replaced.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["valid_for"] == self._valid_for:
                self.modules = content["modules"]

    @classmethod
    @functools.cache
    def below(cls, root: Path) -> _Parsed:
        """Return what is known of the sources of a checkout."""
        name = f"fingerprints.{sys.implementation.cache_tag}.json"
        return cls(root / PACKAGE / "__pycache__" / name)

    def keep(self) -> None:
        """Write what is new where Python may write bytecode; of two processes the last stays."""
        if not self.changed or sys.dont_write_bytecode:
            return
        self.changed = False
        partial = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            content = {"valid_for": self._valid_for, "modules": self.modules}
            partial.write_text(json.dumps(content), encoding="utf-8")
            partial.replace(self._path)


def closure(modules: Iterable[str]) -> dict[str, str]:
    """Return ``{module: digest}`` for modules and everything of this package that they import.

    The packages around a module count as imported, because Python runs their ``__init__`` first.

    Args:
        modules: Full names, such as ``lpsteps.steps.calibrate``.

    Returns:
        The digests, sorted by module name.

    Raises:
        LpstepsError: A named module does not exist or does not parse.
    """
    pending = list(modules)
    for module in pending:
        if module_path(module) is None:
            raise LpstepsError(f"module '{module}': no such module in package '{PACKAGE}'")
    digests: dict[str, str] = {}
    while pending:
        module = pending.pop()
        path = None if module in digests else module_path(module)
        if path is None:
            continue
        status = path.stat()
        digests[module], imported = _parse(module, path, status.st_mtime_ns, status.st_size)
        pending.extend(imported)
        parts = module.split(".")
        pending.extend(".".join(parts[:length]) for length in range(1, len(parts)))
    _Parsed.below(ROOT).keep()
    return dict(sorted(digests.items()))


def package_digests() -> dict[str, str]:
    """Return ``{module: digest}`` for all modules of this package."""
    files = (ROOT / PACKAGE).rglob("[!.]*.py")
    parts = (file.relative_to(ROOT).with_suffix("").parts for file in files)
    return closure(".".join(part for part in own if part != "__init__") for own in parts)


def environment_digest(lock_file: Path) -> str:
    """Return a digest of the pinned requirements, and of what is installed in place of them.

    Packages that no result comes from may be of any version.

    Raises:
        LpstepsError: The lock file is missing.
    """
    pins = _pins(lock_file)
    return _lines_digest([*pins, *_installed_otherwise(pins)])


def pinned_digest(lock_file: Path) -> str:
    """Return what the digest of the environment is where the pinned versions are installed.

    Raises:
        LpstepsError: The lock file is missing.
    """
    return _lines_digest(_pins(lock_file))


def _lines_digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_LENGTH]


def _pins(lock_file: Path) -> list[str]:
    """Return the requirements without comments and blank lines, sorted."""
    try:
        lines = lock_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LpstepsError(
            f"{lock_file}: missing; it pins the environment of every result"
        ) from error
    return sorted(filter(None, (line.split("#")[0].strip() for line in lines)))


def _installed_otherwise(pins: Iterable[str]) -> Iterator[str]:
    """Yield `name: version` of packages of which another version is installed than is pinned."""
    for pin in pins:
        name, _, pinned = pin.partition("==")
        if name not in _COMPUTING:
            continue
        try:
            # Builds of one version, for a processor or for some CUDA, differ in what follows "+".
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if installed != pinned:
            yield f"{name}: {installed}"


def main(arguments: list[str]) -> int:
    """Print the closure of the modules named on the command line."""
    try:
        digests = closure(arguments)
    except LpstepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for module, digest in digests.items():
        print(f"{digest}  {module}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
