"""The truth about pictures of the Emblem world, which need not be estimated by proxy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apps.emblem.render import SIZE
from apps.emblem.score import ATTRIBUTES, Reading, entropy, judge
from apps.emblem.world import Scene, parse, rarity
from apps.evaluate.networks.classifier import ClassifierExtractor
from apps.evaluate.numbers.intervals import Interval
from apps.evaluate.numbers.set_scores import jackknife_groups, left_out_interval
from apps.evaluate.pictures.captions import read_rows
from apps.evaluate.pictures.features import Features
from apps.evaluate.pictures.texts import fingerprint
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.result import Result, Score
from apps.evaluate.scores import mean_score, single_pictures
from apps.evaluate.settings import EvaluateSettings

ABOUT = {
    "accuracy": "share of pictures that show all that their prompt states, and no more emblems",
    "validity": "share of pictures in which the classifier recognises emblems",
    "rarity": "mean -log p of the recognised scenes under the world's law, in nats",
    **{
        f"accuracy_{name}": f"share of statements about the {name} that are right"
        for name in ("background", *ATTRIBUTES)
    },
}


def emblem(
    generated: Path, prompts: Path | None = None, settings: EvaluateSettings | None = None
) -> Result:
    """Read 64 px pictures with the shipped classifier and compare them with their captions.

    Accuracy of all and of single attributes, validity, rarity and diversity (entropy of each
    attribute over the recognised pictures, in nats). Every prompt counts the same, and intervals
    resample prompts; those of diversity are a jackknife over pictures.

    Args:
        generated: folder of pictures whose prompts are captions of the world.
        prompts: file of prompts; see ``read_rows``.
        settings: how it is carried out.

    Raises:
        ValueError: pictures or prompts that cannot be used.
    """
    with Workplace(settings or EvaluateSettings()) as place:
        classifier = ClassifierExtractor(place.processes.device)
        features = place.features(place.folder(generated), classifier)
        folder, seed = features.folder, place.settings.seed

        def measure() -> Result:
            _check_sizes(features)
            texts = [row["text"].strip() for row in read_rows(generated, folder.names, prompts)]
            reading = classifier.scorer.tell(torch.from_numpy(features.array[:]))
            values = read_values(reading, [parse(text) for text in texts])
            return Result(
                protocol="emblem",
                settings={
                    "classifier": classifier.describe(),
                    "pictures": len(folder),
                    "prompts": fingerprint(texts),
                    "seed": seed,
                },
                scores=(
                    *(
                        mean_score(
                            name,
                            values[name],
                            about,
                            groups=texts,
                            over="prompts",
                            better="neither" if name == "rarity" else "higher",
                            seed=seed,
                        )
                        for name, about in ABOUT.items()
                    ),
                    *diversity(reading),
                ),
                images=single_pictures(folder, values, texts, texts),
            )

        return place.finish(measure)


def read_values(reading: Reading, goals: Sequence[Scene]) -> dict[str, Tensor]:
    """Per metric one number for each picture (N,); nan where it does not apply."""
    told = zip(reading.recognisable().tolist(), reading.scenes(), strict=True)
    rarities = [rarity(scene) if ok else math.inf for ok, scene in told]
    judged = judge(reading, goals)
    values = {
        "accuracy": judged["accuracy"],
        "validity": judged["valid"],
        "rarity": [math.nan if value == math.inf else value for value in rarities],
        **{f"accuracy_{name}": judged[name] for name in ("background", *ATTRIBUTES)},
    }
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in values.items()}


def diversity(reading: Reading) -> list[Score]:
    """Entropy of each attribute of the (left) emblem and of the background."""
    told = reading.recognisable().tolist()
    valid = [scene for ok, scene in zip(told, reading.scenes(), strict=True) if ok]
    shows = {
        "background": [scene.background for scene in valid],
        **{name: [getattr(scene.emblems[0], name) for scene in valid] for name in ATTRIBUTES},
    }
    return [_entropy_score(f"diversity_{name}", values) for name, values in shows.items()]


def _entropy_score(metric: str, values: Sequence[str | None]) -> Score:
    value = entropy(values)
    groups = jackknife_groups(len(values))
    left_out = [
        entropy([v for row, v in enumerate(values) if row % groups != group])
        for group in range(groups)
    ]
    interval = left_out_interval(value, left_out)
    if interval is not None:
        interval = Interval(max(interval.low, 0.0), interval.high)
    about = "entropy over the recognised pictures, in nats; the interval leaves pictures out"
    return Score(metric, value, interval, len(values), about, "neither")


def _check_sizes(features: Features) -> None:
    wrong = {size: count for size, count in features.sizes.items() if size != (SIZE, SIZE)}
    if wrong:
        (width, height), count = max(wrong.items(), key=lambda item: item[1])
        raise ValueError(
            f"{sum(wrong.values())} of {len(features)} pictures are not {SIZE} x {SIZE} pixels, "
            f"{count} of them {width} x {height}; the Emblem world knows no other size"
        )
