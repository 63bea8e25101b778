"""How often Python looks for garbage in cycles, where messages come and go by the thousand."""

import gc

THRESHOLD = 50_000
"""Objects; messages come and go without cycles, and looking for some after every 700 objects is time lost."""


def look_seldom() -> None:
    """Called once a part has begun: what is there by now stays, and need not be looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
