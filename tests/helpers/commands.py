"""Commands in the tests: the options of a run of seconds, and the line that bad input gets."""

from iterconv.cli.main import main

TINY = ["--data", "digits", "--width", "4", "--blocks", "2", "--epochs", "1", "--samples", "100"]


def refused(capsys, *arguments):
    """The one line that bad input gets."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("iterconv: ") and "Traceback" not in captured.err
    return line
