"""A wish to stop in the middle of a run."""


class StopAfter:
    """Asks to stop once it was looked at so many times."""

    def __init__(self, steps):
        self.left = steps

    def is_set(self):
        self.left -= 1
        return self.left < 0
