"""The one error that the command line shows without a traceback: it says what failed and what to do about it."""


class DevError(Exception):
    """Something that the person at the terminal can act on.

    Attributes:
        advice: what to do, in one sentence.
    """

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice
