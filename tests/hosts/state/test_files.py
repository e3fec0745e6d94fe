"""Who may read and write what the kit has put on a host."""

from __future__ import annotations

from support.hosts import Host

# The group is told where it may do something.
EXPECTED = {
    "/opt/llamakit": "755 root",
    "/opt/llamakit/releases": "755 root",
    "/opt/llamakit/current/proxy.env": "640 root llamakit",
    "/etc/llamakit": "755 root",
    "/etc/llamakit/config.env": "640 root llamakit",
    "/etc/llamakit/proxy_routes.json": "640 root llamakit",
    "/etc/llamakit/models.d/script.json": "640 root llamakit",
    "/etc/llamakit/secrets": "700 root",
    "/etc/llamakit/secrets/llama_api_key": "600 root",
    "/etc/llamakit/secrets/postgres_admin_password": "600 root",
    "/etc/llamakit/secrets/postgres_proxy_password": "600 root",
    "/var/lib/llamakit": "755 root",
    "/var/lib/llamakit/models": "755 root",
    "/var/lib/llamakit/state.json": "644 root",
    "/usr/local/bin/llamakit": "755 root",
    "/usr/local/bin/llamakit-users": "755 root",
}
UNITS = "/etc/systemd/system/llamakit*"


def test_modes_and_owners(host: Host) -> None:
    paths = " ".join(EXPECTED)
    found = host.lines(f"stat --dereference --format='%a %U %G' {paths}")
    for (path, expected), line in zip(EXPECTED.items(), found, strict=True):
        assert f"{line} ".startswith(f"{expected} "), f"{path} is {line}, expected {expected}"


def test_the_services_own_only_what_they_write(host: Host) -> None:
    """What runs can't change its own code, settings or secrets."""
    places = "/opt/llamakit /etc/llamakit /usr/local/bin"
    assert host.lines(f"find {places} -user llamakit") == []
    assert host.lines(f"find {places} /var/lib/llamakit -perm /0022 -not -type l") == []


def test_units_hold_no_secret_and_are_roots(host: Host) -> None:
    assert set(host.lines(f"stat --format='%a %U %G' {UNITS}")) <= {
        "644 root root",
        "755 root root",
    }


def test_the_user_can_not_log_in(host: Host) -> None:
    user = host.system.user("llamakit")
    assert user.shell == "/usr/sbin/nologin"
    assert user.home == "/var/lib/llamakit"
    assert user.uid < 1000
    assert host.run("passwd --status llamakit").split()[1] == "L"


def test_the_release_is_whole(host: Host) -> None:
    release = host.run("readlink --canonicalize /opt/llamakit/current")
    assert release.startswith("/opt/llamakit/releases/")
    with host.http() as client:
        assert client.get("/readyz").json()["release"] == release.rpartition("/")[2]
