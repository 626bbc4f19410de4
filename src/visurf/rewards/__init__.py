"""Verifiable rewards, one file per family of definitions.

Every reward is a pure function. Where a published implementation, its paper and common sense disagree, the same function
has named variants: ``published`` is exact to the released code, quirks included; ``paper`` follows the text of the paper
where it says something else; ``sound``, the default, closes the holes. docs/rewards.md lists every difference.
"""

from typing import Literal

Variant = Literal["published", "paper", "sound"]

__all__ = ["Variant"]
