"""A real HTTP server that speaks S3, in this process (moto): buckets for tests, reached as any other S3 store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class ObjectStore:
    """Where the store is; processes that use it need :data:`CREDENTIALS` in their environment."""

    endpoint: str
    made: list[str] = field(default_factory=list)

    def new_bucket(self) -> str:
        """The fsspec address of a new bucket."""
        name = f"ppcmi-{len(self.made)}"
        self._client().create_bucket(Bucket=name)
        self.made.append(name)
        return f"s3://{name}/store"

    def objects(self, url: str) -> dict[str, bytes]:
        """Everything in a bucket."""
        client, bucket = self._client(), url.split("/")[2]
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        names = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}

    def _client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """An empty store until the context ends."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield ObjectStore(f"http://127.0.0.1:{port}")
    finally:
        server.stop()
