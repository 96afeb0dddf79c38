"""Where the servers of a test keep what they keep: SQLite and a directory, or PostgreSQL and an S3 store.

Tests that shall hold on both say ``pytestmark = pytest.mark.usefixtures("every_storage")``; whatever makes a server
folder in them asks :func:`storage_settings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ppcmi_server.settings import StorageSettings

if TYPE_CHECKING:  # the last two need packages that not every machine has
    from ppcmi_server.services import Services
    from support.postgres import Cluster
    from support.s3 import ObjectStore

_chosen: list[Callable[[], StorageSettings]] = []


def storage_settings() -> StorageSettings:
    """Settings of a storage that nothing is in yet."""
    return _chosen[-1]() if _chosen else StorageSettings()


def stored_files(services: Services) -> dict[str, bytes]:
    """Everything in a server's folder and in its blob store, wherever that is."""
    folder = services.config.folder
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if services.blobs.is_local:
        return found
    files, root = services.blobs._files, services.blobs._root
    return found | {f"blobs/{path.removeprefix(root + '/')}": files.cat_file(path) for path in files.find(root)}


@contextmanager
def postgresql_and_s3(cluster: Cluster, store: ObjectStore) -> Iterator[None]:
    """Servers made in the context keep what they keep there."""
    from support.s3 import CREDENTIALS

    databases: list[str] = []

    def settings() -> StorageSettings:
        databases.append(cluster.new_database())
        return StorageSettings(database_url=databases[-1], blobs_url=store.new_bucket(), s3_endpoint=store.endpoint)

    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    _chosen.append(settings)
    try:
        yield
    finally:
        _chosen.pop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for url in databases:
            cluster.drop(url)
