"""Events of transactions that run at the same time make one chain, in every database that a server may have."""

import threading
from dataclasses import replace

import pytest

from ppcmi_server import audit
from ppcmi_server.access import identity
from ppcmi_server.config import create_folder
from ppcmi_server.database.engine import Database
from support.storages import storage_settings

pytestmark = pytest.mark.usefixtures("every_storage")


def test_many_at_the_same_time_make_one_chain(tmp_path):
    """Each transaction also changes a row that the others change: nobody waits for each other for ever."""
    database = Database(replace(create_folder(tmp_path / "server"), storage=storage_settings()))
    database.upgrade()
    with database.writing() as session:
        identity.add_site(session, "Hospital A")
        identity.add_site(session, "Hospital B")
    failures = []

    def work(number):
        names = ["Hospital A", "Hospital B"]
        try:
            for _ in range(8):
                with database.writing() as session:
                    audit.record(session, f"operator-{number}", "test")
                    for name in names if number % 2 else reversed(names):
                        identity.site_named(session, name)
                    identity.set_weight(session, names[0], 0.5, f"operator-{number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with database.reading() as session:
        state = audit.verify(session)
    assert (state.events, state.first_broken) == (2 + 6 * 8 * 2, None)
    database.close()
