"""Secrets that are replaced by given ones, with the most talkative output that Ansible has."""

from __future__ import annotations

import json
from pathlib import Path

from support.hosts import Host, play, wait_for
from support.shown import SHOWN, everything_shown

NAMES = (
    "llama_api_key",
    "postgres_superuser_password",
    "postgres_admin_password",
    "postgres_proxy_password",
    "hf_token",
)


def test_given_secrets_take_their_place_and_are_nowhere_to_be_seen(
    cpu01: Host, tmp_path: Path
) -> None:
    canaries = {name: f"canary-{name.replace('_', '')}-5up3r" for name in NAMES}
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"llamakit_secrets_given": canaries}))
    key = cpu01.new_key("rotated")
    try:
        run = play("site.yml", "-vvv", f"--extra-vars=@{given}", hosts="cpu01")
        assert run.changed["cpu01"] > 0
        assert run.output.count("invocation:") > 10, "this is not the output of -vvv"
        seen = {"Ansible's output": run.output.encode()}
        seen |= {place: everything_shown(cpu01, place) for place in SHOWN}
        for place, text in seen.items():
            for name, canary in canaries.items():
                assert canary.encode() not in text, f"{name} is to be seen in {place}"
        with cpu01.openai(key) as client:
            client.completions.create(model="script", prompt="x<|say|>", max_tokens=1)
        assert (
            cpu01.system.file("/etc/llamakit/secrets/llama_api_key").content_string.strip()
            == (canaries["llama_api_key"])
        )
    finally:
        play(hosts="cpu01")
    wait_for(cpu01.up, 60)
    cpu01.run("llamakit-users user delete --username rotated --yes")
