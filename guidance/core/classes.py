"""Which class a prompt names, and the same prompt with another class in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Text = str | int
"""A word of a prompt, or a class label for models that are conditioned on classes."""


@dataclass(frozen=True)
class renamed:
    """A function of a prompt: the prompt with the name of another class in it.

    Args:
        classes: names of all classes, or their labels.
        index: number of the class to name.

    Raises:
        ValueError: when called, the prompt does not name exactly one of the classes.
    """

    classes: tuple[Text, ...]
    index: int

    def __call__(self, text: Text) -> Text:
        name = self.classes[self.index]
        found = self.classes[class_of(text, self.classes)]
        if isinstance(text, int) or isinstance(name, int):
            return name
        return _pattern((found,)).sub(lambda match: name, text)


@lru_cache(4096)
def class_of(text: Text, classes: tuple[Text, ...]) -> int:
    """Number of the class that a prompt names, or of a class label.

    Names are whole words or phrases, in any case; of "car" and "sports car" the longer one counts.

    Raises:
        ValueError: the prompt names none of the classes or several.
    """
    names = {str(name).lower(): name for name in classes}
    said = [str(text)] if isinstance(text, int) else _pattern(classes).findall(text)
    found = {names[word.lower()] for word in said if word.lower() in names}
    if len(found) == 1:
        return classes.index(found.pop())
    what = " and ".join(sorted(map(repr, found))) or "none"
    raise ValueError(
        f"a prompt must name exactly one of the {len(classes)} classes, such as {classes[0]!r}, "
        f"found {what} in {text!r:.80}"
    )


def check_classes(owner: str, value: Any) -> tuple[Text, ...]:
    """The value as names or as labels of at least two classes; anything else raises one line."""
    expected = f"{owner}: classes must be at least 2 different names, or labels from 0 up"
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{expected}, found {value!r:.80}")
    classes = tuple(value)
    words = all(isinstance(item, str) and item.strip() for item in classes)
    labels = all(type(item) is int and item >= 0 for item in classes)
    different = len({str(item).lower() for item in classes})
    if not (words or labels) or different < max(2, len(classes)):
        raise ValueError(f"{expected}, found {classes!r:.80}")
    return classes


def _pattern(names: tuple[Text, ...]) -> re.Pattern[str]:
    longest_first = sorted(map(str, names), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
