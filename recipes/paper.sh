#!/usr/bin/env bash
# The reproduction table of docs/results-reproduction.md, from public data to a report, on SmolLM2-135M-Instruct.
#
#   recipes/paper.sh                 run everything; what is done already is not done again
#   recipes/paper.sh --list          print every command with its expected minutes on one CPU core, and run nothing
#   recipes/paper.sh NAME …          only the steps whose name begins with one of these (train/sft, eval/joint)
#
# DATA   folder of the public sets (default ../shared/data)      RUNS   models and measurements (default runs/reproduction)
# SEEDS  seeds of sft, joint and gated (default "0 1 2")         TEXT   JSONL of raw text for the pretraining stage
# DTYPE  of all models and of training, float32 (default) or bfloat16: about half of the time on a CPU with AMX
# SAFESIGNAL  the command (default safesignal)
#
# Raw text and its labels: with TEXT set, a guard labels it (GUARD, default meta-llama/Llama-Guard-3-1B). Without, the answers of
# the training rows serve, with the labels they have: no Wikipedia, but the same loss, and no network. Every step goes on where
# it was cut short.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:-../shared/data}
RUNS=${RUNS:-runs/reproduction}
ROWS=runs/reproduction # recipes/reproduction-answers.yaml names it
SEEDS=${SEEDS:-0 1 2}
GUARD=${GUARD:-meta-llama/Llama-Guard-3-1B}
SAFESIGNAL=${SAFESIGNAL:-safesignal}
DTYPE=${DTYPE:-float32}
case $DTYPE in
    float32) PRECISION=fp32 ;;
    bfloat16) PRECISION=bf16 ;;
    *) echo "error: DTYPE is $DTYPE. Expected float32 or bfloat16." >&2 && exit 2 ;;
esac
LIST=
ONLY=()
for argument in "$@"; do
    if [ "$argument" = --list ]; then LIST=1; else ONLY+=("$argument"); fi
done
MINUTES=0

# step NAME MINUTES COMMAND…: run a command until it has ended well once; $RUNS/.done/NAME says that it has.
step() {
    local name=$1 minutes=$2 wanted=1 code=0
    shift 2
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
    elif [ -e "$RUNS/.done/$name" ]; then
        echo "$name: done before"
    else
        echo "$name: about $minutes minutes"
        "$SAFESIGNAL" "$@" || code=$?
        if [ $code -eq 0 ]; then
            mkdir -p "$(dirname "$RUNS/.done/$name")" && touch "$RUNS/.done/$name"
        elif [ $code -eq 3 ]; then
            echo "$name: attempts errored; start this script again to make them once more" >&2
        else
            exit $code
        fi
    fi
}

# measure NAME MINUTES TARGET OPTIONS…: evaluate one target into $RUNS/eval/NAME. Prefills of k tokens begin with answers of the
# untuned model for every row, so that all face the same attack.
measure() {
    local name=$1 minutes=$2 target=$3
    shift 3
    step "eval/$name" "$minutes" \
        evaluate --suite recipes/reproduction.yaml --data_dir "$DATA" --targets "$target" --prefills_by smollm2 --batch_size 64 \
        --dtype "$DTYPE" --output_dir "$RUNS/eval/$name" "$@"
    if [ -n "$LIST" ] || [ -e "$RUNS/eval/$name/$target/results.json" ]; then
        REPORTED+=("$RUNS/eval/$name/$target")
        NAMES+=("$name")
    fi
}
REPORTED=()
NAMES=()

# train NAME MINUTES CONFIG OPTIONS…: the same rows for every recipe.
train() {
    local name=$1 minutes=$2 config=$3
    shift 3
    step "train/$name" "$minutes" \
        align --config "$config" --data "$ROWS/answers.jsonl" --dtype "$DTYPE" --precision "$PRECISION" --output "$RUNS/$name" "$@"
}

# 1. Rows: the model's own answers and those of public sets, one file for every recipe, none from an evaluation set. Requests
# are bare, as in the paper: a wrapped or noisy one would stand in the malicious class alone, for want of benign answers to such.
step data/rollouts 60 \
    rollouts --plan recipes/smollm2.toml --data_dir "$DATA" --licence permissive --licence sharealike --dtype "$DTYPE" \
    --batch_size 64 --output "$ROWS/rollouts.jsonl"
step data/answers 2 \
    data build recipes/reproduction-answers.yaml --data_dir "$DATA" --output "$ROWS/answers.jsonl" --overwrite
if [ -n "${TEXT:-}" ]; then
    RAW="$ROWS/text-guarded.jsonl"
    step data/text-guarded 120 label --input "$TEXT" --guard "$GUARD" --limit 6000 --output "$RAW"
else
    RAW="$ROWS/text.jsonl"
    step data/text 1 \
        label --input "$ROWS/answers.jsonl" --field response --label_field response_label --licence sharealike --output "$RAW"
fi

# 2. Models. Three seeds for sft, joint and gated, one for the rest. Joint has the pretraining stage's steps besides, as in the
# paper; joint-no-pretrain has as many as its rivals. What has another position or no λ2 begins without that stage, which had
# neither: compare it with joint-no-pretrain.
step train/pretrain 28 \
    align --config recipes/smollm2-pretrain.toml --data "$RAW" --dtype "$DTYPE" --precision "$PRECISION" --output "$RUNS/pretrain"
for seed in $SEEDS; do
    train "sft-$seed" 33 recipes/smollm2-sft.toml --seed "$seed"
    train "joint-$seed" 38 recipes/smollm2-joint.toml --start "$RUNS/pretrain" --seed "$seed"
    train "gated-$seed" 18 recipes/smollm2-gated.toml --seed "$seed"
done
train augment-0 33 recipes/smollm2-augment.toml
train joint-no-pretrain 38 recipes/smollm2-joint.toml
for ablation in lambda-0.01 lambda-1 spans-inference; do
    train "joint-$ablation" 38 "recipes/ablations/$ablation.toml" --start "$RUNS/pretrain"
done
for ablation in lambda-0 position-tracking; do
    train "joint-$ablation" 38 "recipes/ablations/$ablation.toml"
done
# Window lengths are no part of the paper's training, where [CLS] sees the query alone: same weights, thresholds anew.
first=${SEEDS%% *}
for ablation in no-attention r-5 r-20; do
    step "train/joint-$ablation" 8 \
        calibrate --adapter "$RUNS/joint-$first" --dtype "$DTYPE" --data "$ROWS/answers.jsonl" --config "recipes/ablations/$ablation.toml" \
        --output "$RUNS/joint-$ablation"
done
step train/probe 15 \
    probe --config recipes/smollm2-gated.toml --data "$ROWS/answers.jsonl" --dtype "$DTYPE" --output "$RUNS/probe"

# 3. Measurements. The rows of the table, then what only changes how answers are written.
measure base 18 base
measure keywords 12 keywords --attacks_only # these two write the base's text
measure probe 12 probe --probe "$RUNS/probe" --attacks_only
measure augment-0 18 base --model "$RUNS/augment-0"
for seed in $SEEDS; do
    brief=
    [ "$seed" = "$first" ] || brief=--attacks_only # ability and cost once per recipe
    measure "sft-$seed" 18 base --model "$RUNS/sft-$seed" $brief
    measure "joint-$seed" 18 guarded --adapter "$RUNS/joint-$seed" $brief
    measure "gated-$seed" 18 guarded --adapter "$RUNS/gated-$seed" $brief
done
measure gated-shipped 10 guarded --attacks_only # its ability and cost: docs/results.md
for ablation in no-pretrain spans-inference lambda-0 lambda-0.01 lambda-1 position-tracking no-attention r-5 r-20; do
    measure "joint-$ablation" 10 guarded --adapter "$RUNS/joint-$ablation" --attacks_only
done
# The weights of the first joint model, steered otherwise.
steer() { measure "$1" 10 guarded --adapter "$RUNS/joint-$first" --attacks_only "${@:2}"; }
steer joint-no-decoding --policy low
steer joint-explicit-only --no-implicit
steer joint-stop --policy high
steer joint-schedule-first --schedule first --no-buffer
steer joint-schedule-every --schedule every
steer joint-schedule-periodic --schedule periodic:10
steer joint-tau-1 --tau 1
steer joint-tau-3 --tau 3

# 4. The table, of the rows that are there.
if [ ${#REPORTED[@]} -gt 0 ]; then
    rm -f "$RUNS/.done/report"
    step report 1 report "${REPORTED[@]}" --names "$(IFS=,; echo "${NAMES[*]}")" --output_dir "$RUNS/report"
fi
if [ -n "$LIST" ]; then
    printf '# in all about %d h on one core; two steps fit beside each other\n' $((MINUTES / 60))
fi
