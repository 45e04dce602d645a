"""Pictures of a class, drawn by the model itself where a folder lacks them.

Training shows them beside the photos so that the class stays what it was (prior preservation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from personalize.core.captions import read_captions
from personalize.core.images import Item, find_items, list_photos
from personalize.core.samples import seed_of


def class_images(
    pipe: Any, prompt: str, folder: str | Path, count: int, *, seed: int = 0, **call: Any
) -> tuple[Item, ...]:
    """At least ``count`` pictures of a class, those that the folder lacks drawn one by one.

    Photos that are there already count. A picture depends on the seed and its number alone, so that
    an interrupted call goes on where it was.

    Args:
        pipe: text-to-image pipeline.
        prompt: text of the class, such as "a photo of a dog".
        folder: where the pictures are kept; made if it is not there.
        count: how many are needed.
        seed: of the pictures.
        call: further arguments of the pipeline's call, such as ``num_inference_steps``.

    Raises:
        ValueError: ``count`` is below 1, the folder holds pictures that were drawn for another
            prompt, or photos that cannot be used.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, found {count}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    photos, _ = list_photos(folder)
    for name, text in read_captions(folder, photos).items():
        if name.startswith("class-") and text != prompt:
            raise ValueError(
                f"{str(folder / name)!r} was drawn for {text!r}, not for {prompt!r}; choose "
                "another folder"
            )
    names = (f"class-{number:05}.png" for number in range(count))
    missing = [name for name in names if not (folder / name).exists()][
        : max(0, count - len(photos))
    ]
    for name in missing:
        generator = torch.Generator().manual_seed(seed_of(seed, name))
        image = pipe(prompt, generator=generator, **call).images[0]
        temporary = folder / f".{name}.tmp"
        image.save(temporary, "png")
        (folder / name).with_suffix(".txt").write_text(prompt, encoding="utf-8")
        temporary.replace(folder / name)
    return find_items(folder, (prompt,))
