"""An S3 server of our own on loopback, which knows one user and refuses everybody else."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
from pyarrow import fs

BUCKET = "lmc-results"
_PATIENCE = 280.0  # seconds; a busy machine needs many
_REGION = "us-east-1"


@dataclass(frozen=True)
class ObjectStore:
    """A running server.

    Attributes:
        environment: what a process needs to reach it.
        log: every request, a line each.
    """

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path

    @property
    def secrets(self) -> tuple[str, str]:
        """The key and its secret."""
        return self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"]

    def filesystem(self) -> fs.S3FileSystem:
        """The server, seen from outside lmc-ray."""
        key, secret = self.secrets
        return fs.S3FileSystem(
            access_key=key,
            secret_key=secret,
            region=_REGION,
            endpoint_override=self.environment["AWS_ENDPOINT_URL"],
            allow_delayed_open=True,  # an object in one request
        )

    def objects(self, folder: str) -> dict[str, int]:
        """Sizes of all objects below a folder of the bucket, by path."""
        selector = fs.FileSelector(f"{BUCKET}/{folder}", recursive=True, allow_not_found=True)
        found = self.filesystem().get_file_info(selector)
        return {info.path: info.size for info in found if info.type == fs.FileType.File}

    def read(self, path: str) -> bytes:
        """An object's bytes."""
        with self.filesystem().open_input_file(path) as file:
            return file.read()

    def requests(self, words: str) -> int:
        """How many requests so far have these words in their line."""
        return sum(words in line for line in self.log.read_text().splitlines())


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """A server with an empty bucket `BUCKET` and one user who may do everything there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log, address = folder / "object-store.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=file,
            env={**os.environ, "NO_COLOR": "1"},
        )
    try:
        _wait_for(port, process)
        yield ObjectStore(process, _first_user(address), log)
    finally:
        process.kill()
        process.wait()


def _first_user(address: str) -> dict[str, str]:
    """Make the bucket and the user; from then on every request must be signed by that user."""
    anybody = {
        "aws_access_key_id": "anybody",
        "aws_secret_access_key": "anything",
        "region_name": _REGION,
        "endpoint_url": address,
    }
    boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **anybody)
    iam.create_user(UserName="lmc")
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    iam.put_user_policy(UserName="lmc", PolicyName="all", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="lmc")["AccessKey"]
    headers = {"Content-Type": "text/plain"}
    urlopen(Request(f"{address}/moto-api/reset-auth", b"0", headers)).close()
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        assert process.poll() is None, "the object store did not start"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, "the object store does not answer"
            time.sleep(0.1)
        else:
            return
