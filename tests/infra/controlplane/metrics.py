"""Samples in Prometheus' text format."""

from collections.abc import Mapping


def total(text: str, name: str, labels: Mapping[str, str]) -> float:
    """The sum of the samples of `name` that carry all of `labels`; 0 where there is none."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = 0.0
    for line in text.splitlines():
        if line.startswith(name):
            sample, _, value = line.rpartition(" ")
            metric, _, rest = sample.partition("{")
            if metric == name and all(label in rest for label in wanted):
                found += float(value)
    return found
