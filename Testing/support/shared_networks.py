"""Networks that a site of a test shares, and what it sees of others'; bare calls, without the client."""

from __future__ import annotations

from typing import Any

import requests

from support.app_server import CODEC, TASK, SiteAtServer

PATH = f"/v1/tasks/{TASK.name}"


def share_network(site: SiteAtServer, body: Any, codec: str = CODEC) -> requests.Response:
    """Share a network of a codec; an iterator is sent without saying how long it is."""
    return site.call("PUT", f"{PATH}/network", data=body, headers={"X-PPCMI-Codec": codec})


def withdraw_network(site: SiteAtServer) -> None:
    """Take the site's own network back."""
    assert site.call("DELETE", f"{PATH}/network").status_code == 204


def list_networks(site: SiteAtServer) -> list[dict[str, Any]]:
    """What the site is told of networks."""
    answer = site.call("GET", f"{PATH}/networks")
    assert answer.status_code == 200, answer.text
    return answer.json()


def get_network(site: SiteAtServer, of: SiteAtServer) -> requests.Response:
    """Another site's network."""
    return site.call("GET", f"{PATH}/networks/{of.site_id}")


def networks(site: SiteAtServer) -> dict[str, bytes]:
    """Every network that the site is offered, by whose it is."""
    return {
        entry["site_id"]: site.call("GET", f"{PATH}/networks/{entry['site_id']}").content
        for entry in list_networks(site)
    }
