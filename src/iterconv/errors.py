"""The error that bad input raises."""


class InputError(ValueError):
    """Bad input of any kind: an option, file, shape, value, model or checkpoint.

    The message is one line that names the offending value and the remedy; the command line prints it
    and exits with code 2.
    """
