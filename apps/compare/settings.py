"""Settings of a comparison, checked as they are made; light enough to import for --help."""

from __future__ import annotations

from dataclasses import dataclass

from apps.settings import MAX_SEED, DrawSettings, check_whole

MOST_CELLS = 1000
"""Pictures of a comparison, which is looked at as one page."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings(DrawSettings):
    """What to draw with ``apps.compare.run.compare``: every rule on every prompt and seed.

    Attributes:
        rules: at least one rule as text, such as ``CFG(6) + Rescale(0.7)``, or ``none``.
        sweep: values of one setting of the rules, such as ``CFG.scale=2,4,6``, see
            ``apps.compare.sweep``; None for the rules as they are.
        seeds: of the noise, the same for every rule.
        difference: also draw what each rule changes on the first one's pictures.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    rules: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    sweep: str | None = None
    difference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "rules", "seeds"):
            found = getattr(self, name)
            if not found or len(set(found)) < len(found):
                raise ValueError(f"{name} must hold at least one and none twice, found {found!r}")
        for seed in self.seeds:
            check_whole("seeds", seed, 0, MAX_SEED)


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds such as ``0-3``, ``1,5,9`` or ``0-3,7``; none twice.

    Raises:
        ValueError: the text is no such list, or too long a one.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise ValueError(f"seeds must be such as 0-3 or 1,5,9, found {text!r}")
        low, high = int(first), int(last or first)
        if not 0 <= high - low < MOST_CELLS:
            raise ValueError(f"seeds must rise, {MOST_CELLS} of them at most, found {text!r}")
        seeds |= dict.fromkeys(range(low, high + 1))
    return tuple(seeds)
