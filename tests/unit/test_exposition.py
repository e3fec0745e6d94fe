"""The text that Prometheus reads, read with Prometheus' own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from llamakit_proxy.exposition import Counter, Histogram, Reading, readings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Every sample by its name and labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


@given(st.lists(st.floats(-1, 100, allow_nan=False), max_size=40))
def test_a_histogram_is_what_the_library_makes_of_the_same_numbers(numbers: list[float]) -> None:
    registry = CollectorRegistry()
    bounds = (0.01, 0.5, 1.0, 10.0)
    theirs = TheirHistogram("x_seconds", "Text.", ("model",), buckets=bounds, registry=registry)
    ours = Histogram("x_seconds", "Text.", ("model",), buckets=bounds)
    for number in numbers:
        theirs.labels("m").observe(number)
        ours.observe(("m",), number)
    expected = read(generate_latest(registry).decode())
    expected = {key: value for key, value in expected.items() if not key[0].endswith("_created")}
    assert read("".join(ours.lines())) == expected


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_whatever_a_label_holds_comes_back(value: str) -> None:
    counter = Counter("x_total", "Text.", ("model", "status"))
    counter.add((value, "200"), 2)
    counter.add((value, "200"))
    counter.add((value, "500"))
    # Prometheus' lines end with a line feed alone; the parser here takes other ends for one, too.
    if value.splitlines() in ([], [value]) or value == "\n":
        found = read("".join(counter.lines()))
        assert found == {
            ("x_total", frozenset({("model", value), ("status", "200")})): 3,
            ("x_total", frozenset({("model", value), ("status", "500")})): 1,
        }


def test_what_is_looked_up_is_a_gauge_or_a_counter_by_its_name() -> None:
    values: list[Reading] = [
        ("up", "1 when it is.", {"model": "a"}, True),
        ("up", "1 when it is.", {"model": "b"}, False),
        ("lost_total", "Lost.", {}, 3),
    ]
    kinds = {f.name: f.type for f in text_string_to_metric_families("".join(readings(values)))}
    assert kinds == {"up": "gauge", "lost": "counter"}
    assert read("".join(readings(values))) == {
        ("up", frozenset({("model", "a")})): 1,
        ("up", frozenset({("model", "b")})): 0,
        ("lost_total", frozenset()): 3,
    }


def test_metrics_without_a_number_are_named() -> None:
    text = "".join([*Counter("a_total", "A.").lines(), *Histogram("b", "B.", buckets=(1,)).lines()])
    assert [family.name for family in text_string_to_metric_families(text)] == ["a", "b"]
    assert read(text) == {}
