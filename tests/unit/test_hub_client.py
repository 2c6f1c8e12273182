"""The client of the Hub: it gives up on silence, and heeds what its library heeds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from lpsteps.data import hub
from lpsteps.errors import LpstepsError

ADDRESS = "https://huggingface.co/api/models/owner/tiny"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # The hooks are called without a request being sent.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._limit_silence()
    # A second download of the same process.
    hub._limit_silence()
    yield huggingface_hub.get_session()
    huggingface_hub.close_session()


def pass_hooks(client: Any, request: Any) -> None:
    for hook in client.event_hooks["request"]:
        hook(request)


def test_a_request_without_a_limit_gets_one(client: Any) -> None:
    request = client.build_request("GET", ADDRESS, timeout=None)
    pass_hooks(client, request)
    limits = dict.fromkeys(("connect", "read", "write", "pool"), constants.HF_HUB_DOWNLOAD_TIMEOUT)
    assert request.extensions["timeout"] == limits


def test_a_limit_of_the_library_stays(client: Any) -> None:
    request = client.build_request("GET", ADDRESS, timeout=3)
    pass_hooks(client, request)
    assert set(request.extensions["timeout"].values()) == {3}


def test_the_library_goes_nowhere_when_it_is_told_to(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineModeIsEnabled):
        pass_hooks(client, client.build_request("GET", ADDRESS))


def test_redirections_are_followed_to_where_the_files_are(client: Any) -> None:
    assert client.follow_redirects is True


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ("Got: HfHubHTTPError: 429 Too Many Requests for url: https://hub/api", "try again later"),
        ("Server error '500 Internal Server Error' for url 'https://hub/api'", "try again later"),
        ("Server error '503 Service Unavailable' for url 'https://hub/api'", "try again later"),
        ("Client error '404 Not Found' for url 'https://hub/api'", "check the network and the"),
        ("peer closed connection (received 500 bytes, expected 900)", "check the network and the"),
        ("Client error '401 Unauthorized' for url 'https://hub/api'", "it is gated or private"),
    ],
)
def test_the_advice_follows_the_answer(answer: str, advice: str) -> None:
    with (
        pytest.raises(LpstepsError, match=f"{advice}.*, or use a folder$"),
        hub.hub_answers("owner/tiny", "0123456789ab", "use a folder"),
    ):
        raise OSError(answer)


def wrapped(cause: BaseException) -> RuntimeError:
    error = RuntimeError("An error occurred while generating the dataset")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system", "/cache/a"),
        PermissionError(errno.EACCES, "Permission denied", "/cache/a"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "/cache/a"),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_fault_of_this_machine_is_not_put_on_the_hub(fault: Exception, inside: bool) -> None:
    """However the library wraps it: the remedy is another one."""
    with (
        pytest.raises(type(fault)) as raised,
        hub.hub_answers("owner/tiny", "0123456789ab", "use a folder"),
    ):
        raise wrapped(fault) if inside else fault
    assert raised.value is fault


@pytest.mark.parametrize(
    "answer",
    [
        # As a firewall denies a connection.
        PermissionError(errno.EPERM, "Operation not permitted"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        ValueError("out of memory in the server's words"),
    ],
    ids=repr,
)
def test_a_connection_that_is_denied_is_none(answer: Exception) -> None:
    with (
        pytest.raises(LpstepsError, match="the Hub did not deliver it"),
        hub.hub_answers("owner/tiny", "0123456789ab", "use a folder"),
    ):
        raise wrapped(answer)
