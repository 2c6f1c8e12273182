"""Broken definitions of models, data and methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from faults.bad_input import BadInput
from faults.commands import plan
from faults.workspace import DELETE

THINGS = "config/tiny_definitions.yaml"
METHODS = "config/methods.yaml"

WRONG_TYPES: dict[str, Any] = {
    "models": ["tiny"],
    "models/tiny": "tiny",
    "models/tiny/title": 3,
    "models/tiny/n_layers": "six",
    "models/tiny/hidden_size": 48.5,
    "models/tiny/parameters": None,
    "models/tiny/layer_parameters": "many",
    "models/tiny/vocabulary": "large",
    "models/tiny/add_bos": "sometimes",
    "models/tiny/trust_remote_code": "a little",
    "models/tiny/source": "model",
    "models/tiny/source/path": 3,
    "datasets/copa": None,
    "datasets/copa/columns": "premise",
    "datasets/copa/local": "copa.parquet",
    "datasets/copa/splits": ["validation"],
    "datasets/copa/hub": "copa",
    "corpora/novels/partitions": [0.5, 0.5],
    "corpora/novels/partitions/test": "half",
    "corpora/novels/division": "sorted",
    "corpora/novels/sampling": "sequential",
    "corpora/novels/seed": "none",
    "corpora/novels/count": "all",
    "calibrations/wikipedia/windows": "three",
    "calibrations/wikipedia/generated": "two",
    "calibrations/wikipedia/printed": "often",
    "training_texts/tiny/fit": "wikipedia",
    "training_texts/tiny/heldout": {},
    "archives": "smollm2",
}
"""A value of another type than its key takes."""

OUT_OF_RANGE: dict[str, Any] = {
    "models/tiny/n_layers": 0,
    "models/tiny/hidden_size": -48,
    "models/tiny/parameters": 0,
    "models/tiny/vocabulary": 0,
    "corpora/novels/count": 0,
    "corpora/novels/length": 0,
    "calibrations/wikipedia/windows": 0,
    "calibrations/wikipedia/generated": -1,
    "calibrations/wikipedia/exclude_first": -1,
    "training_texts/tiny/fit": [],
    "training_texts/tiny/fit/0/windows": 0,
}
"""A number below the least that its key takes, or a list that must not be empty."""

REFERENCES: dict[str, tuple[Any, str]] = {
    "corpora/novels/dataset": ("text-novel", "did you mean 'text-novels'?"),
    "calibrations/wikipedia/corpus": ("wiki", "did you mean 'wikipedia'?"),
    "calibrations/wikipedia/split": ("train", "partition 'train' is not defined; allowed:"),
    "training_texts/tiny/fit/0/corpus": ("wiki", "did you mean 'wikipedia'?"),
    "training_texts/tiny/fit/0/split": ("train", "partition 'train' is not defined; allowed:"),
    "datasets/copa/archive": ("olmo", "archive 'olmo' is not defined"),
}
"""The name of something that no definition has."""

METHOD_MISTAKES: dict[str, tuple[Any, str]] = {
    "selections/shortgpt/metric": ("block_influense", "did you mean 'block_influence'?"),
    "selections/shortgpt/metrics": ("bi", "unknown key, did you mean 'metric'?"),
    "selections/sleb/params/windows": (0, "must be at least 1"),
    "selections/sleb/params/windws": (1, "unknown key, did you mean 'windows'?"),
    "selections/sleb/params": ([1], "must be a mapping"),
    "selections/../x": ({"title": "X", "metric": "sleb"}, "selections"),
    "recoveries/linearpatch/method": ("linear_patch", "did you mean 'linearpatch'?"),
    "recoveries/linearpatch/params": ({"grouping": "all"}, "params"),
    "recoveries/linearpatch/title": (DELETE, "required"),
    "recoveries/linearpatch+ft/start": ("linearpach", "did you mean 'linearpatch'?"),
    "recoveries/linearpatch+ft/distillation": ("ft", "distillation 'ft' is not defined"),
    "width_prunings/narrow/method": ("llm_prunner", "did you mean 'llm_pruner'?"),
    "width_prunings/shortgpt": (
        {"title": "X", "method": "llm_pruner"},
        "a selection has this name, too",
    ),
    "recoveries/x; rm -r results": ({"title": "X", "method": "none"}, "recoveries"),
    "recoveries/$(id)": ({"title": "X", "method": "none"}, "recoveries"),
    "recoveries/{wildcards.model}": ({"title": "X", "method": "none"}, "recoveries"),
    "recoveries/a\nb": ({"title": "X", "method": "none"}, "recoveries"),
    "recoveries/.hidden": ({"title": "X", "method": "none"}, "recoveries"),
}


def _set(file: str, key: str, value: Any) -> Any:
    return lambda workspace: workspace.set(file, key, value)


def _generated() -> Iterator[BadInput]:
    for key, value in (*WRONG_TYPES.items(), *OUT_OF_RANGE.items()):
        where = key.replace("/", ".")
        yield BadInput(f"{where}: {value!r}", _set(THINGS, key, value), plan, (THINGS, where))
    for key, (value, remedy) in REFERENCES.items():
        entry = ".".join(key.split("/")[:2])
        yield BadInput(
            f"{key.replace('/', '.')}: {value}", _set(THINGS, key, value), plan, (entry, remedy)
        )


def _method_mistakes() -> Iterator[BadInput]:
    for key, (value, remedy) in METHOD_MISTAKES.items():
        name = key if "/../" in key else key.replace("/", ".")

        def edit(workspace: Any, key: str = key, value: Any = value) -> None:
            section, _, rest = key.partition("/")
            entry, _, inner = (
                rest.rpartition("/") if rest.count("/") and ".." not in rest else ("", "", rest)
            )
            if entry:
                workspace.set(METHODS, key, value)
            else:
                workspace.change(METHODS, lambda content: content[section].update({inner: value}))

        yield BadInput(f"{name!r}", edit, plan, (key.split("/")[0], remedy))


def _thing(name: str, key: str, value: Any, *says: str) -> BadInput:
    return BadInput(name, _set(THINGS, key, value), plan, says)


TRAINED = {"corpus": "wikipedia", "split": "calibration", "windows": 8}


def _text(name: str, file: str, content: str, *says: str) -> BadInput:
    return BadInput(name, lambda w: w.write(file, content), plan, (file, *says))


CASES = [
    _text(
        "a name twice in one file",
        METHODS,
        "selections:\n  a: {title: A, metric: sleb}\n  a: {title: B, metric: taylor}\n",
        "the key 'a' is there twice",
        "line 3",
    ),
    _text("a date that does not exist", METHODS, "selections: 2026-13-45\n", "not valid YAML"),
    _text(
        "a number of ten thousand digits", METHODS, f"selections: {'9' * 10**4}\n", "not valid YAML"
    ),
    _text("a thousand brackets", METHODS, "[" * 2000, "nested too deeply"),
    _text("a list that holds itself", METHODS, "selections: &a [*a]\n", "must be a mapping"),
    _text("a tab for indentation", METHODS, "selections:\n\ta: 1\n", "line 2"),
    _text("a key without a colon", METHODS, "selections\nrecoveries: {}\n", "not valid YAML"),
    *_generated(),
    *_method_mistakes(),
    _thing(
        "shares that add up to more than the text",
        "corpora/novels/partitions/test",
        0.9,
        "corpora.novels.partitions",
        "add up to at most 1",
    ),
    _thing(
        "a share that is not a number",
        "corpora/novels/partitions/test",
        float("nan"),
        "corpora.novels.partitions",
    ),
    _thing(
        "a share of nothing",
        "corpora/novels/partitions/test",
        0.0,
        "corpora.novels.partitions",
        "positive",
    ),
    _thing("no partition", "corpora/novels/partitions", {}, "corpora.novels"),
    _thing(
        "random windows without a number",
        "corpora/novels/sampling",
        "random",
        "corpora.novels.count",
        "give a number",
    ),
    _thing(
        "held-out text that is trained on",
        "training_texts/tiny/heldout",
        [TRAINED],
        "training_texts.tiny.heldout",
        "hold out other text",
    ),
    _thing(
        "a corpus twice in a training text",
        "training_texts/tiny/fit",
        [TRAINED, TRAINED],
        "training_texts.tiny.fit",
        "listed twice",
    ),
    _thing(
        "training text that is scored",
        "training_texts/tiny/fit/0/split",
        "test",
        "is scored by benchmark 'wikipedia'",
        "other text",
    ),
    _thing(
        "training windows of several lengths",
        "corpora/novels/length",
        16,
        "windows of several lengths",
        "set window_length",
    ),
    BadInput(
        "fewer training windows than a distillation asks for",
        lambda w: w.set(METHODS, "distillations/kl/windows", 100),
        plan,
        ("there are 8", "ask for fewer or name a longer text"),
    ),
    _thing(
        "tokens left out in front of a method that counts all",
        "calibrations/wikipedia/exclude_first",
        4,
        "calibrations.wikipedia.exclude_first: 4",
        "counts every token",
        "set it to 0",
    ),
    BadInput(
        "fewer calibration windows than a method asks for",
        lambda w: w.set(METHODS, "selections/sleb/params/windows", 4),
        plan,
        ("selections.sleb: windows: 4 x 3 tokens", "calibration 'wikipedia' has 3 x 32"),
    ),
    _thing(
        "fewer windows cut than a calibration reads",
        "corpora/wikipedia/count",
        2,
        "calibrations.wikipedia.windows: 3",
        "corpora.wikipedia.count is 2",
    ),
    _thing(
        "a model from two places", "models/tiny/source/repo", "owner/name", "models.tiny.source"
    ),
    _thing(
        "a branch in place of a commit hash",
        "models/tiny/source",
        {"repo": "owner/name", "revision": "main"},
        "models.tiny.source.revision",
    ),
    _thing(
        "a repository without an owner",
        "models/tiny/source",
        {"repo": "name", "revision": None},
        "models.tiny.source.repo",
    ),
    _thing(
        "a repository that climbs out of its folder",
        "models/tiny/source",
        {"repo": "../name", "revision": None},
        "models.tiny.source.repo",
    ),
    _thing(
        "a data file that climbs out of its folder",
        "datasets/copa/local/validation",
        "../../etc/passwd",
        "datasets.copa.local.validation",
        "without '..'",
    ),
    _thing(
        "a data file with an absolute path",
        "datasets/copa/local/validation",
        "/etc/passwd",
        "datasets.copa.local.validation",
        "relative path",
    ),
    _thing("a model's name with a slash", "models", {"a/b": {}}, "models", "a/b"),
    _thing(
        "an archive's hash that is too short",
        "archives",
        {
            "x": {
                "package": "x",
                "version": "1",
                "filename": "x.whl",
                "sha256": "abc",
                "members": [],
                "licence": "",
            }
        },
        "archives.x.sha256",
    ),
    _thing(
        "an archive's file name with a slash",
        "archives",
        {
            "x": {
                "package": "x",
                "version": "1",
                "filename": "../x.whl",
                "sha256": "0" * 64,
                "members": [],
            }
        },
        "archives.x.filename",
    ),
    _thing(
        "an archive's name that is an option of pip",
        "archives",
        {
            "x": {
                "package": "--index-url=x",
                "version": "1",
                "filename": "x.whl",
                "sha256": "0" * 64,
                "members": [],
            }
        },
        "archives.x.package",
    ),
    _thing(
        "an archive's invalid version",
        "archives",
        {
            "x": {
                "package": "x",
                "version": "1; os_name",
                "filename": "x.whl",
                "sha256": "0" * 64,
                "members": [],
            }
        },
        "archives.x.version",
    ),
    BadInput(
        "a distillation that starts from a distilled recovery",
        lambda w: w.set(METHODS, "recoveries/linearpatch+ft/start", "linearpatch+ft"),
        plan,
        ("recoveries.linearpatch+ft", "start from a recovery with a method"),
    ),
    BadInput(
        "methods that are not YAML",
        lambda w: w.write(METHODS, "selections: ["),
        plan,
        (METHODS, "not valid YAML"),
    ),
    BadInput(
        "methods that are not UTF-8",
        lambda w: w.write(METHODS, b"\xff\xfe"),
        plan,
        (METHODS, "not UTF-8 text"),
    ),
    BadInput(
        "empty methods", lambda w: w.write(METHODS, ""), plan, (METHODS, "expected a mapping")
    ),
    BadInput(
        "a section that is not known",
        lambda w: w.change(METHODS, lambda c: c.update(recovery={})),
        plan,
        (METHODS, "did you mean 'recoveries'?"),
    ),
    BadInput(
        "the same name in two files",
        lambda w: w.change(
            THINGS, lambda c: c.update(selections={"sleb": {"title": "S", "metric": "sleb"}})
        ),
        plan,
        (METHODS, "selections.sleb: already defined in"),
    ),
]
