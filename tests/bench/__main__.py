"""`python -m tests.bench`: measure, and print a table and then JSON. Progress goes to standard error."""

import argparse
import json
from pathlib import Path

from tests.bench.measure import Plan, run
from tests.bench.report import as_json, table
from tests.bench.stage import stage


def main() -> None:
    """Run the benchmark. A goal that is missed is printed, and is no error: it may be the machine."""
    defaults = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="vm-consistency next to its rivals")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="how often each contender is measured")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="how long each time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there instead of to standard output")
    arguments = parser.parse_args()
    with stage() as built:
        results = run(built, Plan(arguments.rounds, arguments.seconds))
    print(table(results))
    text = json.dumps(as_json(results), indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    else:
        print(f"\n{text}")


if __name__ == "__main__":
    main()
