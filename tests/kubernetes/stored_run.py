"""The tiny project in a repository, and Snakemake with the profile for Kubernetes in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pods import Cluster
from project import make_project, profile, write_yaml

SMALL = "config/small.yaml"
PAGE = "reports/tables.html"
BUCKET = "pruning"
SECONDS = 3000
IGNORED = [
    *(".snakemake/", "logs/", "resources/", "results/", "__pycache__/", "reports/tables.*"),
    *("reports/*/*.csv", "!reports/published/*.csv", "*.csv.record.json"),
]


def make_repository(folder: Path) -> Path:
    """Make the project with one small table of repairs and one figure, and commit it.

    One repair is distilled from stored targets, one is by least squares and one row has less width,
    so that files beside each kind of manifest travel, but for those of archives and exports.
    """
    project = make_project(folder)
    methods = yaml.safe_load((project / "config/methods.yaml").read_text())
    methods["distillations"]["kl"] |= {"mode": "offline", "windows": 4}
    write_yaml(project / "config/methods.yaml", methods)
    rows = [
        {"id": name, "label": name, "selection": "llm-streamline", "recovery": name}
        for name in ("linearpatch+ft", "least-squares")
    ]
    table = {
        **{"id": "cluster", "title": "Cluster", "caption": "Repairs of one cut."},
        "columns": [
            {"id": "novels", "title": "Novels", "unit": "perplexity"},
            {"id": "copa", "title": "COPA", "unit": "percent"},
        ],
        "rows": [*rows, {"id": "narrow", "label": "Narrow", "selection": "narrow"}],
    }
    write_yaml(project / "reports/tables/cluster.yaml", table)
    asked = {"tables": {"cluster": {"tiny": [2]}}, "figures": {"figure2": {"tiny": [2]}}}
    write_yaml(project / SMALL, {**profile(), **asked})
    (project / ".gitignore").write_text("\n".join(IGNORED) + "\n")
    author = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "The project"]):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    return project


@dataclass
class Runner:
    """Snakemake with the profile for Kubernetes, in a project."""

    project: Path
    store: str
    folder: str
    cluster: Cluster
    kubeconfig: Path

    @property
    def address(self) -> str:
        """Where its files are."""
        return f"s3://{BUCKET}/{self.folder}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        options = ["--default-storage-prefix", self.address, "--container-image", "image"]
        options += ["--jobs", "2", "--max-threads", "1", "--configfile", SMALL]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/kubernetes"),
                *(*arguments, *options),
            ],
            cwd=self.project,
            env={
                **os.environ,
                **{"LPSTEPS_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
                "KUBECONFIG": str(self.kubeconfig),
                "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": self.store,
                "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key",
                "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "secret",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, output
        return output

    def bucket(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        store = boto3.resource("s3", endpoint_url=self.store, region_name="us-east-1", **keys)
        return store.Bucket(BUCKET)

    def stored(self) -> dict[str, bytes]:
        """All files in the store, by their names in the project."""
        prefix = f"{self.folder}/"
        return {
            stored.key.removeprefix(prefix): stored.get()["Body"].read()
            for stored in self.bucket().objects.filter(Prefix=prefix)
        }
