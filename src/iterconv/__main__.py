"""The command ``iterconv``, and ``python -m iterconv``."""

import os
import sys

from iterconv.errors import InputError, require


def main() -> int:
    """Run the command line, or tell what to install for it.

    Returns:
        The exit code, as of ``iterconv.cli.main``.
    """
    # Where several threads are asked for, those that wait would else take whole cores from other processes. OpenMP
    # reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("NO_COLOR"):  # which tyro knows by a name of its own, and reads when it is imported
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    try:
        for library in ("tyro", "rich"):
            require(library, "the command line")
    except InputError as problem:
        print(f"iterconv: {problem}", file=sys.stderr)
        return 2
    from iterconv.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
