"""docs/monitoring.md, its dashboard and its alerts name the metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from llamakit_proxy import exchange, genai
from unit.docs import metrics, pages

_EXPOSED = metrics.exposed()
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")
_METRIC = re.compile(r"\b(?:llamakit|gen_ai|process)_[a-z0-9_]+")
_OF_PROMETHEUS = {"instance", "job", "le"}
_NOT_SHOWN = {
    "llamakit_spans_dropped_total",
    "llamakit_spans_sent_total",
    "process_max_fds",
    "process_virtual_memory_bytes",
}
"""What the dashboard leaves out: tracing is off at first, limits and virtual memory say little."""


def _dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(pages.page("docs/monitoring/grafana.json"))
    return document


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(pages.page("docs/monitoring/alerts.yml"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> Iterator[tuple[str, str]]:
    """Every query with the text that names its labels again, by what it is for."""
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]
    for variable in _dashboard()["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert found
        yield found[1], f"{{{{{found[2]}}}}}"
    for note in _dashboard()["annotations"]["list"]:
        yield note["expr"], ""
    for rule in _alerts():
        told = " ".join(rule["annotations"].values())
        yield rule["expr"], told.replace("$labels.", "")


def _named(query: str) -> set[str]:
    """The metrics of a query, as the table calls them."""
    bare = re.sub(r"\{[^}]*\}", "", re.sub(r"\b(?:by|without) \([^)]*\)", "", query))
    names = _METRIC.findall(bare)
    return {name if name in _EXPOSED else _SUFFIX.sub("", name) for name in names}


def _labels(query: str, told: str) -> set[str]:
    """The labels of a query: those it matches, groups by and shows."""
    lists = re.findall(r"\{([^}]*)\}", query)
    found = {match for one in lists for match in re.findall(r"(\w+)\s*[=!]~?\"", one)}
    for group in re.findall(r"\b(?:by|without) \(([^)]*)\)", query):
        found |= set(group.split(", "))
    return found | set(re.findall(r"\{\{ ?(\w+) ?\}\}", told))


def test_the_table_is_what_the_proxy_shows() -> None:
    page = pages.page(metrics.PAGE)
    assert metrics.written(page) == page, (
        "run: PYTHONPATH=tests runtime/test/bin/python -m unit.docs.metrics; "
        "then show the new metric in docs/monitoring/grafana.json, or add it to _NOT_SHOWN"
    )


@pytest.mark.parametrize(("query", "told"), list(_queries()), ids=lambda text: str(text)[:60])
def test_queries_name_metrics_and_labels_that_there_are(query: str, told: str) -> None:
    names = _named(query)
    assert names <= _EXPOSED.keys()
    assert names or re.match(r"up\{", query)
    labels = {label for name in names for label in _EXPOSED[name].labels}
    assert _labels(query, told) <= labels | _OF_PROMETHEUS
    assert query.count("(") == query.count(")")


def test_what_is_measured_is_shown() -> None:
    shown = {name for query, _ in _queries() for name in _named(query)}
    assert _EXPOSED.keys() - shown == _NOT_SHOWN


def test_the_readers_of_queries_see_what_is_wrong() -> None:
    query = 'sum by (le, user) (rate(llamakit_gone_bucket{modell=~"x"}[5m]))'
    assert _named(query) == {"llamakit_gone"}
    assert _labels(query, "{{ person }}") == {"le", "user", "modell", "person"}


def test_no_label_is_a_persons() -> None:
    """A series for each person would grow without bounds, and tell everyone who asks what."""
    labels = {label for metric in _EXPOSED.values() for label in metric.labels}
    assert not labels & {"user", "username", "key", "key_id", "client"}
    assert "`llama_requests`" in pages.page(metrics.PAGE)


def test_panels_have_ids_of_their_own_and_places_beside_each_other() -> None:
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        here = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not here & taken
        assert max(x for x, _ in here) < 24
        taken |= here


def test_alerts_say_what_to_do() -> None:
    for rule in _alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_errors_that_alerts_name_exist() -> None:
    known = pages.words(pages.page("docs/api.md")) | {cause.value for cause in exchange.Cause}
    for query, _ in _queries():
        for pattern in re.findall(r'error=~"([^"]+)"', query):
            for code in pattern.split("|"):
                assert any(re.fullmatch(code, name) for name in known), code


def test_every_path_that_asks_a_model_has_an_operation() -> None:
    paths = set(re.findall(r"`POST (/v1/[a-z/]+)`", pages.page("docs/api.md")))
    assert paths == genai.OPERATIONS.keys()
