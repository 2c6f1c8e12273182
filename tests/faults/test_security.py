"""Hostile input: archives, weights, names, templates and texts that mean harm."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import re
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpsteps import jobs
from lpsteps.config import Definitions, read_config
from lpsteps.data import archives
from lpsteps.data.archives import extract_members
from lpsteps.data.finite_weights import check_finite
from lpsteps.errors import LpstepsError, printable
from lpsteps.provenance import record_path
from lpsteps.selection.ranking import Candidate, Ranking, ranked, write_ranking
from lpsteps.validation import validated

ROOT = Path(__file__).parents[2]


def _wheel(folder: Path, name: str, content: bytes, mode: int = 0o644) -> Path:
    path = folder / "hostile-1-py3-none-any.whl"
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFREG | mode) << 16
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:x"])
def test_no_member_of_an_archive_leaves_its_folder(tmp_path: Path, name: str) -> None:
    wheel = _wheel(tmp_path, name, b"x")
    with pytest.raises(LpstepsError, match="outside the folder"):
        extract_members(wheel, ["*"], tmp_path / "unpacked")
    assert list(tmp_path.rglob("x")) == []


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hostile-1-py3-none-any.whl"
    member = zipfile.ZipInfo("data/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(LpstepsError, match="'data/link' is a link"):
        extract_members(path, ["*"], tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_member_that_grows_a_thousandfold_is_not_unpacked(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, "data/zeros", b"\0" * (17 << 20))
    with pytest.raises(LpstepsError, match="no data does"):
        extract_members(wheel, ["*"], tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_members_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_CONTENT", 10)
    wheel = _wheel(tmp_path, "data/text", b"eleven byte")
    with pytest.raises(LpstepsError, match="at most 10 are unpacked"):
        extract_members(wheel, ["*"], tmp_path / "unpacked")


def test_a_member_larger_than_it_says_is_not_kept(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, "data/text", b"a" * 5000)
    content = bytearray(wheel.read_bytes())
    said = (5000).to_bytes(4, "little")
    for place in (content.index(said), content.rindex(said)):
        content[place : place + 4] = (10).to_bytes(4, "little")
    wheel.write_bytes(content)
    with pytest.raises(LpstepsError, match="not a valid wheel"):
        extract_members(wheel, ["*"], tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F32", b"\x00\x00\x80\x7f"),
        ("F16", b"\x00\xfc"),
        ("BF16", b"\xc0\x7f"),
        ("F64", b"\0" * 6 + b"\xf0\x7f"),
    ],
)
def test_numbers_that_are_none_are_found_in_every_type(
    tmp_path: Path, dtype: str, bits: bytes
) -> None:
    def write(data: bytes) -> Path:
        size = len(bits)
        facts = {"dtype": dtype, "shape": [len(data) // size], "data_offsets": [0, len(data)]}
        header = json.dumps({"w": facts}).encode()
        path = tmp_path / "weights.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + data)
        return path

    check_finite(write(b"\0" * len(bits) * 3))
    with pytest.raises(LpstepsError, match="w: holds NaN or an infinity"):
        check_finite(write(b"\0" * len(bits) * 2 + bits))


class _Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trap"),))


def test_no_pickle_is_ever_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpsteps.artifacts import read_tensors
    from lpsteps.data.checkpoints import count_parameters, take_local_model

    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.pkl"):
        (model / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(LpstepsError, match=r"no \*.safetensors there"):
        take_local_model(model, tmp_path, with_code=True)
    (model / "model.safetensors").write_bytes(pickle.dumps(_Trap()))
    for read in (
        lambda: count_parameters(model),
        lambda: read_tensors(model / "model.safetensors"),
    ):
        with pytest.raises(LpstepsError, match="not a valid safetensors file"):
            read()
    assert not (tmp_path / "trap").exists()


SHELL = st.text(alphabet="$`;&|<>(){}[]*?!'\"\\ \n\t#~-=aB./", min_size=1, max_size=20)


@settings(deadline=None)
@given(SHELL)
def test_no_name_that_a_shell_could_misread_is_accepted(name: str) -> None:
    payload = {"recoveries": {name: {"title": "X", "method": "none"}}}
    safe = all(character.isalnum() or character in "._+-" for character in name)
    try:
        validated(Definitions, payload, "x.yaml")
    except LpstepsError as error:
        assert str(error).isprintable()
    else:
        assert safe and name[0].isalnum()


# Each example starts a shell.
@settings(deadline=None, max_examples=25)
@given(st.text(max_size=60))
def test_free_text_reaches_a_program_as_one_argument(text: str) -> None:
    """Titles, separators and paths stand in the specs, which Snakemake quotes for the shell."""
    from snakemake.utils import format as snakemake_format

    if "\0" in text:
        return
    spec = {"separator": text}
    command = snakemake_format("printf %s {params:q}", params=spec, stepout=1)
    run = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    from lpsteps.program import parse_spec

    assert parse_spec(run.stdout.decode("utf-8", "surrogatepass")) == spec


@settings(deadline=None)
@given(st.text())
def test_messages_hold_nothing_that_steers_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert str(LpstepsError(text)).isprintable()


# What the parameters are made by that commands take unquoted: options with paths of the workflow, and
# the name of a module.
_CHECKED = re.compile(r"options\(|named_options\(|f\"lpsteps\.steps\.")


def _parameters(rules: str) -> list[tuple[str, str]]:
    """Name and value of each parameter of the rules in a file."""
    found = []
    for block in re.finditer(r"^( +)params:\n((?:\1 +.*\n)+)", rules, re.MULTILINE):
        parts = re.split(rf"^{block[1]}    (\w+)=", block[2], flags=re.MULTILINE)
        found += list(zip(parts[1::2], parts[2::2], strict=True))
    return found


def test_shell_commands_of_rules_quote_all_that_is_free_text() -> None:
    """What a command takes unquoted is made of checked names and of the workflow's own paths."""
    running = []
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        text = path.read_text()
        assert "shell=True" not in text and "os.system" not in text, path
        taken = dict(re.findall(r"\{params\.(\w+)([^}]*)\}", text))
        parameters = _parameters(text)
        assert taken.keys() <= {name for name, _ in parameters}, path
        for name, value in parameters:
            if name in taken and not _CHECKED.search(value):
                assert taken[name] == ":q", f"{path}: params.{name} = {value}"
        # Another place that takes it otherwise would hide behind the last one.
        for name, how in taken.items():
            assert set(re.findall(rf"\{{params\.{name}([^}}]*)\}}", text)) == {how}, path
        if taken:
            running.append(path.stem)
            assert taken["spec"] == ":q", path
    assert running == [
        *("calibrate", "distill", "evaluate", "export", "overheads", "prune", "recover", "report"),
        *("resources", "select"),
    ]


def test_a_token_of_the_environment_is_in_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpsteps.steps import choose_layers

    token = "hf_" + hashlib.sha256(b"token").hexdigest()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, token)
    ranking, plan, log = (tmp_path / name for name in ("ranking.parquet", "plan.json", "log.txt"))
    rows = ranked(Candidate((layer,), float(layer), True) for layer in range(4))
    write_ranking(ranking, Ranking("single", rows))
    spec = {"n": 2, "model": "tiny", "selection": "bi", "n_layers": 4}
    status = choose_layers.main(
        [f"--ranking={ranking}", f"--plan={plan}", f"--log={log}", "--spec", json.dumps(spec)]
    )
    assert status == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {plan, log, record_path(plan)} <= set(files)
    assert all(token.encode() not in path.read_bytes() for path in files)


def test_code_of_a_model_runs_only_where_its_entry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = read_config(Path("config/paper.yaml"))
    fetched = {
        name: jobs.fetch_model_spec(config, name)["trust_remote_code"]
        for name in config.definitions.models
        if jobs.archive_of_model(config, name) is None
    }
    assert len(fetched) > 5
    assert [name for name, trusted in fetched.items() if trusted is not False] == ["baichuan-2-7b"]
    assert fetched["baichuan-2-7b"] is True


def test_models_are_loaded_from_local_folders_alone() -> None:
    calls = [
        (path, call)
        for path in (Path(__file__).parents[2] / "lpsteps").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "from_pretrained"
    ]
    assert len(calls) >= 5
    for path, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        # `**source` of the conversion from GGUF holds it as well.
        from_gguf = path.name == "convert.py" and given.get(None) == "source"
        assert given.get("local_files_only") == "True" or from_gguf, f"{path}: line {call.lineno}"
