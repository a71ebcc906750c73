"""`python -m tests.infra.controlplane [PART...]`: build the parts named, or all that `make test` needs, and print where
they are."""

import sys

from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.progress import BuildError


def main() -> int:
    """Exit code 1 when a part cannot be built."""
    try:
        files = ensure_all(*sys.argv[1:])
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for name, path in sorted(files.items()):
        print(f"{name}\t{path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
