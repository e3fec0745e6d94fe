"""What config/models.yaml no longer lists leaves the host, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.hosts import Host, play
from support.podman import CHECKOUT

MODELS = CHECKOUT / "molecule" / "common" / "config" / "models.yaml"
LEFT = (
    "/etc/systemd/system/*embed* /etc/systemd/system/*/*embed* /etc/llamakit/models.d/embed* "
    "/var/lib/llamakit/services.d/*embed* /var/lib/llamakit/started.d/*embed*"
)


def test_a_model_that_is_removed_goes_and_the_rest_runs_on(
    hosts: list[Host], tmp_path: Path
) -> None:
    config = yaml.safe_load(MODELS.read_text())
    config["models"] = [model for model in config["models"] if model["id"] != "embed"]
    fewer = tmp_path / "models.yaml"
    fewer.write_text(yaml.safe_dump(config))
    before = {host.name: host.pids() for host in hosts}
    play(llama_server_models_file=str(fewer))
    for host in hosts:
        after = host.pids()
        assert after == {
            name: pid for name, pid in before[host.name].items() if name != "llamakit-llama-embed"
        }
        assert host.lines(f"ls --directory {LEFT} 2>/dev/null || true") == []
        key = host.new_key("fewer")
        with host.openai(key) as client:
            assert [model.id for model in client.models.list()] == ["script"]
        host.run("llamakit-users user delete --username fewer --yes")
    assert set(play(llama_server_models_file=str(fewer)).changed.values()) == {0}
    play()
    for host in hosts:
        assert host.pids()["llamakit-llama-script"] == before[host.name]["llamakit-llama-script"]
        assert "llamakit-llama-embed" in host.services()
