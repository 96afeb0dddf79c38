"""The dashboard of a real server over HTTPS: the cookie travels encrypted only, and everything works with it."""

import subprocess
import sys

from support.browser import Watched, chromium
from support.real_server import RealServer, serving


def test_a_login_over_https_works_with_a_cookie_that_is_for_https_alone(tmp_path):
    folder = tmp_path / "server"
    subprocess.run([sys.executable, "-m", "ppcmi_server", "init", str(folder)], check=True, capture_output=True)
    operator = RealServer(folder)
    operator.command("tls", "self-signed", "--name", "127.0.0.1")
    token = operator.command("operator", "add", "Night shift").split()[0]
    with serving(folder) as server, chromium() as browser:
        assert server.url.startswith("https://")
        context = browser.new_context(ignore_https_errors=True)  # nobody vouches for a self-signed certificate
        watched = Watched(context, server.url)
        watched.open("/sites")
        page = watched.page
        page.get_by_label("token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Sites").wait_for()
        page.get_by_label("Name").fill("Hospital over HTTPS")
        page.get_by_role("button", name="Add the site").click()
        code = page.locator(".secret").inner_text().strip()
        (cookie,) = context.cookies()
        assert cookie["name"] == "__Secure-ppcmi-operator"
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        assert cookie["path"] == "/dashboard"
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        assert context.cookies() == []
        assert watched.complaints == []
        context.close()
    for secret in (token, code, cookie["value"]):
        assert secret not in server.log
