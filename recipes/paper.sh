#!/usr/bin/env bash
# The reproduction table of docs/results.md, from public data to a report, on SmolLM2-135M-Instruct.
#
#   recipes/paper.sh                 run everything; what is done already is not done again
#   recipes/paper.sh --list          print every command with its expected minutes on two CPU cores, and run nothing
#   recipes/paper.sh NAME …          only the steps whose name begins with one of these (train/sft, eval/joint)
#
# DATA   folder of the public sets (default ../shared/data)      RUNS   models and measurements (default runs/reproduction)
# SEEDS  seeds of sft, joint and gated (default "0 1 2")         TEXT   JSONL of raw text for the pretraining stage
# SAFESIGNAL  the command (default safesignal)
#
# Raw text and its labels: with TEXT set, a guard labels it (GUARD, default meta-llama/Llama-Guard-3-1B). Without, the answers of
# the training rows serve, with the labels they have: no Wikipedia, but the same loss, and no network. Every step goes on where
# it was cut short. The minutes are extrapolated from steps of 16 rows and answers of 96 tokens on two cores; a GPU takes a
# twentieth or less.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:-../shared/data}
RUNS=${RUNS:-runs/reproduction}
ROWS=runs/reproduction # recipes/reproduction-answers.yaml names it
SEEDS=${SEEDS:-0 1 2}
GUARD=${GUARD:-meta-llama/Llama-Guard-3-1B}
SAFESIGNAL=${SAFESIGNAL:-safesignal}
LIST=
ONLY=()
for argument in "$@"; do
    if [ "$argument" = --list ]; then LIST=1; else ONLY+=("$argument"); fi
done
MINUTES=0

# step NAME MINUTES DONE COMMAND…: run a command unless the file DONE is there.
step() {
    local name=$1 minutes=$2 mark=$3 wanted=1
    shift 3
    if [ ${#ONLY[@]} -gt 0 ]; then
        wanted=
        for prefix in "${ONLY[@]}"; do case $name in "$prefix"*) wanted=1 ;; esac; done
    fi
    [ -n "$wanted" ] || return 0
    MINUTES=$((MINUTES + minutes))
    if [ -n "$LIST" ]; then
        printf '# %s, about %d min\nsafesignal' "$name" "$minutes"
        printf ' %q' "$@"
        printf '\n'
    elif [ -e "$mark" ]; then
        echo "$name: done before ($mark)"
    else
        echo "$name: about $minutes minutes"
        "$SAFESIGNAL" "$@"
    fi
}

# measure NAME MINUTES TARGET OPTIONS…: evaluate one target into $RUNS/eval/NAME.
measure() {
    local name=$1 minutes=$2 target=$3
    shift 3
    step "eval/$name" "$minutes" "$RUNS/eval/$name/$target/results.json" \
        evaluate --suite recipes/reproduction.yaml --data_dir "$DATA" --targets "$target" --batch_size 64 --output_dir "$RUNS/eval/$name" "$@"
    REPORTED+=("$RUNS/eval/$name/$target")
    NAMES+=("$name")
}
REPORTED=()
NAMES=()

# train NAME MINUTES MARK CONFIG OPTIONS…: the same rows for every recipe.
train() {
    local name=$1 minutes=$2 mark=$3 config=$4
    shift 4
    step "train/$name" "$minutes" "$RUNS/$name/$mark" \
        align --config "$config" --data "$ROWS/requests.jsonl" --data "$ROWS/answers.jsonl" --output "$RUNS/$name" "$@"
}

# 1. Rows: the model's own answers, requests, answers; the same three files for every recipe, none from an evaluation set.
step data/rollouts 60 "$ROWS/requests.jsonl" \
    rollouts --plan recipes/smollm2.toml --data_dir "$DATA" --licence permissive --licence sharealike --output "$ROWS/rollouts.jsonl"
step data/requests 3 "$ROWS/requests.jsonl" \
    data build recipes/smollm2-data.yaml --data_dir "$DATA" --output "$ROWS/requests.jsonl" --overwrite
step data/answers 2 "$ROWS/answers.jsonl" \
    data build recipes/reproduction-answers.yaml --data_dir "$DATA" --output "$ROWS/answers.jsonl" --overwrite
if [ -n "${TEXT:-}" ]; then
    step data/text 120 "$ROWS/text.jsonl" label --input "$TEXT" --guard "$GUARD" --limit 6000 --output "$ROWS/text.jsonl"
else
    step data/text 1 "$ROWS/text.jsonl" \
        label --input "$ROWS/answers.jsonl" --field response --label_field response_label --licence sharealike --output "$ROWS/text.jsonl"
fi

# 2. Models. Three seeds for sft, joint and gated, one for the rest.
step train/pretrain 45 "$RUNS/pretrain/adapter_config.json" \
    align --config recipes/smollm2-pretrain.toml --data "$ROWS/text.jsonl" --output "$RUNS/pretrain"
for seed in $SEEDS; do
    train "sft-$seed" 40 training.json recipes/smollm2-sft.toml --seed "$seed"
    train "joint-$seed" 55 adapter_config.json recipes/smollm2-joint.toml --start "$RUNS/pretrain" --seed "$seed"
    train "gated-$seed" 45 adapter_config.json recipes/smollm2-gated.toml --seed "$seed"
done
train augment-0 50 training.json recipes/smollm2-augment.toml
train joint-no-pretrain 55 adapter_config.json recipes/smollm2-joint.toml
for ablation in no-attention lambda-0 lambda-0.01 lambda-1 r-5 r-20 position-tracking spans-inference; do
    train "joint-$ablation" 55 adapter_config.json "recipes/ablations/$ablation.toml" --start "$RUNS/pretrain"
done
step train/probe 15 "$RUNS/probe/probe.json" \
    probe --config recipes/smollm2.toml --data "$ROWS/requests.jsonl" --data "$ROWS/answers.jsonl" --output "$RUNS/probe"

# 3. Measurements. The rows of the table, then what only changes how answers are written.
measure base 25 base
measure keywords 20 keywords
measure probe 20 probe --probe "$RUNS/probe"
for seed in $SEEDS; do
    measure "sft-$seed" 25 base --model "$RUNS/sft-$seed"
    measure "joint-$seed" 25 guarded --adapter "$RUNS/joint-$seed"
    measure "gated-$seed" 25 guarded --adapter "$RUNS/gated-$seed"
done
measure augment-0 25 base --model "$RUNS/augment-0"
for ablation in no-pretrain no-attention lambda-0 lambda-0.01 lambda-1 r-5 r-20 position-tracking spans-inference; do
    measure "joint-$ablation" 25 guarded --adapter "$RUNS/joint-$ablation"
done
first=${SEEDS%% *}
measure joint-no-decoding 25 guarded --adapter "$RUNS/joint-$first" --policy low
measure joint-no-attention-at-inference 25 guarded --adapter "$RUNS/joint-$first" --no-implicit
measure joint-stop 25 guarded --adapter "$RUNS/joint-$first" --policy high
measure joint-schedule-first 25 guarded --adapter "$RUNS/joint-$first" --schedule first --no-buffer
measure joint-schedule-every 30 guarded --adapter "$RUNS/joint-$first" --schedule every
measure joint-schedule-periodic 25 guarded --adapter "$RUNS/joint-$first" --schedule periodic:10
measure joint-tau-1 25 guarded --adapter "$RUNS/joint-$first" --tau 1
measure joint-tau-3 25 guarded --adapter "$RUNS/joint-$first" --tau 3

# 4. The table.
step report 1 "$RUNS/report/report.md" report "${REPORTED[@]}" --names "$(IFS=,; echo "${NAMES[*]}")" --output_dir "$RUNS/report"
if [ -n "$LIST" ]; then
    printf '# in all about %d h on two cores\n' $((MINUTES / 60))
fi
