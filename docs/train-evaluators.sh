#!/usr/bin/env bash
# Train the evaluators of the shipped models from nothing, and measure them.
#   bash docs/train-evaluators.sh [folder of the evaluators] [pictures]
set -euo pipefail
out=${1:-assets/emblem-evaluators} pictures=${2:-2048} work=runs/evaluators

# Captioned pictures. Of those with one emblem, the texture in a column of its own.
if [ ! -e $work/pictures/metadata.jsonl ]; then
  python -m apps.emblem render --n 8000 --seed 20 --out $work/pictures
  python - $work/pictures/metadata.jsonl <<'PYTHON'
import json, sys
from pathlib import Path

file = Path(sys.argv[1])
rows = [json.loads(line) for line in file.read_text().splitlines()]
for row in rows:
    textures = [emblem["texture"] for emblem in row["scene"]["emblems"]]
    row["texture"] = textures[0] if len(textures) == 1 else None
file.write_text("".join(json.dumps(row) + "\n" for row in rows))
PYTHON
fi

# Every command goes on where it was stopped; all share what the model predicts of the pictures.
train() { # KIND NAME MODEL PICTURES OPTIONS...
  diffusteer train evaluator --kind "$1" --out "$out/$2" --model "$3" --pictures "$4" \
    --data $work/pictures --records $work/records --work "$work/$2" \
    --batch-size 64 --depth 2 --training-batch 128 "${@:5}" | tee "$work/$2.txt"
}
train alignment alignment emblem-unet "$pictures" --width 32
train reward reward emblem-unet "$pictures" --width 32 --steps 400
train classifier classifier emblem-unet "$pictures" --width 28 --label texture
train discriminator discriminator-unet emblem-unet "$pictures" --width 28 --steps 1000
train discriminator discriminator-dit emblem-dit $((pictures / 4)) --width 28 --steps 1000

# Those that know the latents and not the model, on what the other model predicts of other pictures.
python - "$out" $((pictures / 4)) $work <<'PYTHON'
import sys
from pathlib import Path

from apps.train.run import measure
from apps.train.settings import EvaluatorSettings

out, pictures, work = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
for kind, label in (("alignment", None), ("reward", None), ("classifier", "texture")):
    settings = EvaluatorSettings(
        kind=kind, label=label, data=work / "pictures", out=out / kind, model="emblem-dit",
        pictures=pictures, records=work / "records", batch_size=64,
    )
    for row in measure(settings, out / kind).scores:
        print(f"emblem-dit {kind}: sigma / alpha {row['sigma']}: {row['score']}")
PYTHON


# How rare a picture is to a model, which has one classifier for itself.
if [ ! -e $work/rare/metadata.jsonl ]; then
  python -m apps.emblem render --n 8000 --seed 77 --out $work/rare
fi
for model in unet dit; do
  diffusteer train minority --model "emblem-$model" --out "$out/minority-$model" \
    --data $work/rare --pictures 6000 --truth rarity --level 0.3 --draws 3 --classes 8 \
    --width 18 --depth 2 --steps 4000 --batch-size 64 \
    --scores "$work/scores-$model" --work "$work/minority-$model" | tee "$work/minority-$model.txt"
done
