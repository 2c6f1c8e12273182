"""As much of a Kubernetes cluster as Snakemake's executor asks for: pods are processes in empty folders.

A pod gets nothing but its command and its environment: no checkout, no results, no home folder.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Body = dict[str, Any]


@dataclass
class Pod:
    """A job of the cluster and the process that runs it."""

    body: Body
    folder: Path
    process: subprocess.Popen[str]

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def command(self) -> str:
        return str(self.body["spec"]["template"]["spec"]["containers"][0]["args"][1])

    @property
    def limits(self) -> dict[str, str]:
        limits: dict[str, str] = self.body["spec"]["template"]["spec"]["containers"][0][
            "resources"
        ]["limits"]
        return limits

    @property
    def log(self) -> str:
        return (self.folder / "pod.log").read_text()


@dataclass
class Cluster:
    """What was asked of the cluster.

    Attributes:
        folder: Where pods get their folders.
        programs: Folder with the programs of their image.
        pods: All pods so far, in their order.
        secrets: Content of each secret.
        before: Called with the command of a pod that starts; returns the command to run.
    """

    folder: Path
    programs: Path
    pods: list[Pod] = field(default_factory=list)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    before: Callable[[str], str] = field(default=lambda command: command)

    def start(self, body: Body) -> None:
        container = body["spec"]["template"]["spec"]["containers"][0]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        work = folder / "workdir"
        work.mkdir()
        path = f"{self.programs}:/usr/bin:/bin"
        environment = {"HOME": str(folder), "PATH": path, "OMP_NUM_THREADS": "1"}
        for variable in container["env"]:
            source = variable["valueFrom"]["secretKeyRef"]
            content = self.secrets[source["name"]][source["key"]]
            environment[variable["name"]] = base64.b64decode(content).decode()
        with (folder / "pod.log").open("w") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.before(container["args"][1])],
                cwd=work,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.pods.append(Pod(body, folder, process))

    def pod(self, name: str) -> Pod:
        (pod,) = [pod for pod in self.pods if pod.name == name]
        return pod

    def job_status(self, name: str) -> Body:
        pod = self.pod(name)
        code = pod.process.poll()
        status = {"active": 1} if code is None else {"failed" if code else "succeeded": 1}
        return {"kind": "Job", "metadata": {"name": name}, "status": status}

    def pod_list(self, name: str) -> Body:
        code = self.pod(name).process.poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {
            **{"name": "snakemake", "image": "", "imageID": ""},
            **{"ready": True, "restartCount": 0, "state": state},
        }
        item = {"metadata": {"name": name}, "status": {"containerStatuses": [container]}}
        return {"kind": "PodList", "items": [item]}

    def clean(self) -> None:
        for pod in self.pods:
            if pod.process.poll() is None:
                os.killpg(pod.process.pid, 9)
                pod.process.wait()
            shutil.rmtree(pod.folder, ignore_errors=True)


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def answer(self, payload: Body | str, status: int = 200) -> None:
            kind = "text/plain" if isinstance(payload, str) else "application/json"
            content = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> Body:
            length = int(self.headers.get("Content-Length") or 0)
            content: Body = json.loads(self.rfile.read(length) or "{}")
            return content

        def do_POST(self) -> None:
            body = self.body()
            if self.path.endswith("/secrets"):
                cluster.secrets[body["metadata"]["name"]] = body["data"]
            elif self.path.endswith("/jobs"):
                cluster.start(body)
            self.answer(body, 201)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            parts = url.path.split("/")
            if parts[-1] == "status":
                self.answer(cluster.job_status(parts[-2]))
            elif parts[-1] == "log" and "previous=true" in url.query.lower():
                # That of an earlier run of the container, which is never started again.
                message = (
                    f'previous terminated container "snakemake" in pod "{parts[-2]}" not found'
                )
                self.answer({"kind": "Status", "message": message, "code": 400}, 400)
            elif parts[-1] == "log":
                self.answer(cluster.pod(parts[-2]).log)
            else:
                (selector,) = parse_qs(url.query)["labelSelector"]
                self.answer(cluster.pod_list(selector.removeprefix("job-name=")))

        def do_DELETE(self) -> None:
            self.body()
            self.answer({"kind": "Status", "status": "Success"})

    return Handler


def write_programs(folder: Path) -> Path:
    """Write the programs of the pods' image: its Python, and a pip with nothing left to install."""
    folder.mkdir()
    programs = {"python": f'exec {sys.executable} "$@"', "pip": "exit 0"}
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


@contextmanager
def running_cluster(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """Start the cluster; gives it and the file that tells clients where it is."""
    cluster = Cluster(folder, write_programs(folder / "programs"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = {"server": f"http://127.0.0.1:{server.server_address[1]}"}
    content = {
        **{"apiVersion": "v1", "kind": "Config", "current-context": "here"},
        "clusters": [{"name": "here", "cluster": address}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    try:
        yield cluster, path
    finally:
        server.shutdown()
        server.server_close()
        cluster.clean()
