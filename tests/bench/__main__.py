"""`python -m tests.bench`: measure, and print tables and then JSON. Progress goes to standard error."""

import argparse
import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench import measure, report
from tests.bench.report import machine
from tests.bench.scale import kubevirt
from tests.bench.scale import measure as scale_measure
from tests.bench.scale import report as scale_report
from tests.bench.scale.stage import scale_stage
from tests.bench.stage import stage

Part = Callable[[Namespace], tuple[str, dict[str, Any]]]
"""Measures; returns a table, and what goes into the JSON."""


def _speed(arguments: Namespace) -> tuple[str, dict[str, Any]]:
    with stage() as built:
        results = measure.run(built, measure.Plan(arguments.rounds, arguments.seconds))
    return report.table(results), report.as_json(results)


def _scale(arguments: Namespace) -> tuple[str, dict[str, Any]]:
    with scale_stage(arguments.machines) as built:
        results = scale_measure.run(built, scale_measure.ScalePlan())
    return scale_report.table(results), scale_report.as_json(results)


def _kubevirt(arguments: Namespace) -> tuple[str, dict[str, Any]]:
    with kubevirt.kubevirt_stage(arguments.kubevirt_machines) as built:
        results = kubevirt.run(built, kubevirt.KubeVirtPlan())
    return kubevirt.table(results), kubevirt.as_json(results)


PARTS: Mapping[str, Part] = {"speed": _speed, "scale": _scale, "kubevirt": _kubevirt}


def main() -> None:
    """Run the benchmark. A goal that is missed is printed, and is no error: it may be the machine."""
    defaults = measure.Plan()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="how fast vm-consistency is, and how far it scales"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be given again")
    parser.add_argument(
        "--rounds", type=int, default=defaults.rounds, help="speed: how often each contender is measured"
    )
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="speed: how long each time")
    parser.add_argument("--machines", type=int, default=10_000, help="scale: objects of each kind")
    parser.add_argument("--kubevirt-machines", type=int, default=500, help="kubevirt: machines for virt-controller")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there instead of to standard output")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    for name in arguments.only or PARTS:
        text, figures[name] = PARTS[name](arguments)
        print(f"{text}\n", flush=True)
    text = json.dumps(figures, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
