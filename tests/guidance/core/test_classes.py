"""Classes that prompts name: whole words, the longest of them, and labels."""

from __future__ import annotations

import pytest

from guidance.core.classes import check_classes, class_of, renamed

CARS = ("car", "sports car", "cat")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("a red car", 0),
        ("a red sports car", 1),
        ("Cat", 2),
        ("a cat, and another CAT on a carpet", 2),
        ("car-shaped", 0),
    ],
)
def test_longest_whole_word_counts(text: str, index: int) -> None:
    assert class_of(text, CARS) == index
    assert class_of("a car park", ("car", "car park")) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a carpet", "none"),
        ("a scar", "none"),
        ("a car and a sports car", "'car' and 'sports car'"),
        (3, "none"),
    ],
)
def test_exactly_one_class_must_be_named(text: str | int, found: str) -> None:
    message = f"exactly one of the 3 classes, such as 'car', found {found} in"
    with pytest.raises(ValueError, match=message):
        class_of(text, CARS)


def test_other_class_takes_the_place_of_the_name() -> None:
    assert renamed(CARS, 2)("A Sports car by a lake") == "A cat by a lake"
    assert renamed(CARS, 0)("sports car, sports car") == "car, car"
    assert renamed(CARS, 1)("a sports car") == "a sports car"
    assert renamed((r"C++", r"\1 (x)"), 1)("a C++ book") == r"a \1 (x) book"


def test_labels_are_classes() -> None:
    labels = (7, 5, 1000)
    assert class_of(5, labels) == 1
    assert renamed(labels, 0)(5) == 7
    with pytest.raises(ValueError, match="found none in 6"):
        class_of(6, labels)


def test_whole_prompts_are_classes() -> None:
    prompts = ("a photo of a cat", "a drawing of a dog")
    assert renamed(prompts, 1)("a photo of a cat") == "a drawing of a dog"


@pytest.mark.parametrize(
    "classes",
    [("a",), ("a", "A"), ("a", " "), ("a", 1), (1, 1), (1, -1), (True, False), (1.0, 2.0)],
)
def test_impossible_classes_raise(classes: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="Owner: classes must be at least 2 different names"):
        check_classes("Owner", classes)
