"""What requests work with, made once for a server: database, blobs, keys, cohorts, mapper."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from ppcmi.channel import Channel, open_channel
from ppcmi.device import choose_device
from ppcmi.errors import TrainingError
from ppcmi.modes import Mode
from ppcmi_server.access.identity import Caller
from ppcmi_server.config import ServerConfig
from ppcmi_server.database.engine import Database
from ppcmi_server.database.schema import Model
from ppcmi_server.intake import garbage
from ppcmi_server.intake.cohorts import CohortStore
from ppcmi_server.intake.quota import room_of
from ppcmi_server.mapping.mapper import Mapper, MapsLatents
from ppcmi_server.mapping.model_files import ModelFiles
from ppcmi_server.operation.core_dumps import forbid_core_dumps
from ppcmi_server.operation.metrics import Metrics
from ppcmi_server.operation.metrics_state import ServerState
from ppcmi_server.storage.blobs import BlobStore, open_blobs
from ppcmi_server.storage.key_files import end_rotation
from ppcmi_server.storage.keys import ServerKeys
from ppcmi_server.umn.model import TrainedUmn

CHANNELS_KEPT = 256


class Channels:
    """Channels with sites, derived from the server's key when first needed; used from several threads."""

    def __init__(self, keys: ServerKeys) -> None:
        self._keys = keys
        self._kept: OrderedDict[tuple[str, str, Mode], Channel] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, site: Caller, task_identity: str, mode: Mode) -> Channel:
        """The channel with a site for a task and a mode."""
        name = (site.site_id, task_identity, mode)
        with self._lock:
            if name not in self._kept:
                link_key = self._keys.link_key(site.site_id, site.public_key, site.link_salt)
                self._kept[name] = open_channel(link_key, task_identity, mode)
                if len(self._kept) > CHANNELS_KEPT:
                    self._kept.popitem(last=False)
            return self._kept[name]


@dataclass(frozen=True)
class Services:
    """Everything a request handler may use."""

    config: ServerConfig
    database: Database
    blobs: BlobStore
    keys: ServerKeys
    channels: Channels
    cohorts: CohortStore
    metrics: Metrics = field(default_factory=Metrics)

    def sweep(self, older_than_s: float = garbage.IN_USE_S) -> None:
        """Remove what nobody needs any longer, of cohorts and of models; see :mod:`ppcmi_server.intake.garbage`."""
        self.cohorts.sweep(older_than_s)
        garbage.delete_unregistered_models(self.database, self.blobs, self.config.models_folder, older_than_s)


def open_services(config: ServerConfig) -> Services:
    """Services on an initialized server folder; brings the database to this version's form.

    :raises OperatorError: if keys or database are not usable.
    """
    forbid_core_dumps()
    keys = ServerKeys.load(config.folder, config.key_file)
    database = Database(config)
    database.upgrade()
    keys = end_rotation(config, database, keys)
    blobs = open_blobs(config.storage, config.folder)
    channels = Channels(keys)
    cohorts = CohortStore(database, blobs, keys, channels, config.storage, room_of(config))
    services = Services(config, database, blobs, keys, channels, cohorts)
    services.metrics.add_source(ServerState(config, database))
    return services


def start_mapper(services: Services) -> Mapper:
    """The mapper with the server's models."""
    limits, config = services.config.limits, services.config
    device = choose_device(config.training.device)
    files = ModelFiles(config.models_folder, services.blobs)

    def load(model_id: int) -> MapsLatents:
        with services.database.reading() as session:
            model = session.get(Model, model_id)
        if model is None:
            raise TrainingError("The model does not exist any longer; choose another.")
        return TrainedUmn.load(files.find(model.file, model.file_digest)).to(device)

    return Mapper(
        load,
        queued_requests=limits.queued_requests,
        batch_slices=limits.batch_slices,
        batch_wait_s=limits.batch_wait_ms / 1000,
        models_in_memory=limits.models_in_memory,
        metrics=services.metrics,
    )
