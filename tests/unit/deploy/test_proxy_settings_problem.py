"""The filter that asks the proxy about its settings before anything is deployed."""

import pytest
from playbooks.plugins.filter.proxy_settings import FilterModule, proxy_settings_problem

GOOD = "# what deployments write\nLLAMA_PROXY_ROUTES=/etc/r.json\nLLAMAKIT_SECRETS_DIR=/etc/s\n"


def test_good_settings_are_no_problem() -> None:
    assert proxy_settings_problem(GOOD) == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("LLAMA_PROXY_MAX_TOKENS=0", "LLAMA_PROXY_MAX_TOKENS is '0'; expected a whole number 1.."),
        ("LLAMA_PROXY_PORT=http", "LLAMA_PROXY_PORT is 'http'"),
        ("LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS=-1", "expected seconds"),
        ("nonsense", "config.env, line 4: expected NAME=value, found 'nonsense'"),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(line: str, found: str) -> None:
    assert found in proxy_settings_problem(GOOD + line + "\n")


def test_ansible_finds_it() -> None:
    assert FilterModule().filters()["proxy_settings_problem"] is proxy_settings_problem
