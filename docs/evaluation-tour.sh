#!/usr/bin/env bash
# Every evaluation on pictures of the shipped model, without a download.
#   bash docs/evaluation-tour.sh [folder of the results] [pictures]
set -euo pipefail
results=${1:-out/evaluation} pictures=${2:-512} work=runs/evaluation
mkdir -p "$work"

# What the model makes of the captions of real pictures, with guidance and without.
python -m apps.emblem render --n "$pictures" --seed 1 --out $work/real
for kind in guided plain; do
  rule=none && [ $kind = guided ] && rule="CFG(4)"
  diffusteer sample --prompts $work/real/metadata.jsonl --num-images 1 --vary-seed \
    --batch-size 64 --guidance "$rule" --out $work/$kind
  diffusteer evaluate distribution $work/$kind $work/real --out "$results/distribution-$kind.json"
  diffusteer evaluate prompts $work/$kind --out "$results/prompts-$kind.json"
  diffusteer evaluate emblem $work/$kind --out "$results/emblem-$kind.json"
done

# Four subjects, drawn from a description in words and from the class noun alone; CLIP-T reads the
# prompts of the class, as it does for a personalised model once the placeholder token is gone.
concepts=("striped green ring" "dotted purple heart" "checkered orange star" "solid red cross")
for number in "${!concepts[@]}"; do
  concept=${concepts[number]} class=${concepts[number]##* }
  python -m apps.emblem photos --concept "$concept" --seed "$number" --out "$work/photos/$concept"
  for words in "$concept" "$class"; do
    for background in white yellow blue pink; do
      echo "a $words on a $background background"
    done > "$work/$words.txt"
  done
  diffusteer sample --prompts "$work/$concept.txt" --guidance "CFG(4)" --out "$work/described/$concept"
  diffusteer sample --prompts "$work/$class.txt" --guidance "CFG(4)" --out "$work/class/$concept"
  cp "$work/class/$concept/metadata.jsonl" "$work/described/$concept/metadata.jsonl"
done
for kind in described class; do
  diffusteer evaluate subject $work/$kind $work/photos --out "$results/subject-$kind.json"
done

# Scenes of two of them: fresh renders as the ceiling, and the model's.
cat > $work/pairs.txt <<'PROMPTS'
a large striped green ring on the left and a large dotted purple heart on the right on a white background
a large checkered orange star on the left and a large solid red cross on the right on a white background
a large striped green ring on the left and a large solid red cross on the right on a blue background
a large dotted purple heart on the left and a large checkered orange star on the right on a white background
a large striped green ring on the left and a large checkered orange star on the right on a blue background
a large solid red cross on the left and a large dotted purple heart on the right on a yellow background
PROMPTS
python -m apps.emblem render --prompts $work/pairs.txt --n 8 --out $work/pairs-rendered
diffusteer sample --prompts $work/pairs.txt --num-images 8 --guidance "CFG(4)" --out $work/pairs-guided
diffusteer sample --prompts $work/pairs.txt --num-images 8 --guidance none --out $work/pairs-plain
for kind in rendered guided plain; do
  diffusteer evaluate multi $work/pairs-$kind $work/photos --full-prompt --margin 0.25 \
    --out "$results/multi-$kind.json"
done

diffusteer evaluate --compare "$results/emblem-plain.json" "$results/emblem-guided.json"
diffusteer evaluate report "$results"/*.json --out "$results/report"
