#!/usr/bin/env bash
# Fine-tunes an MLA model that was converted from an MHA one; converts it first where that has not been done.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash run_mla_finetuning.sh quick|full [options of offline.finetune]

  quick   1,000 recordings, 5 epochs, batches of 4 x 4, an evaluation every 200 steps: does it all work?
  full    all recordings, 10 epochs, batches of 8 x 2, an evaluation every 1,000 steps

Options after that go to `python -m offline.finetune` (its --help lists them) and win over those of the mode:
  bash run_mla_finetuning.sh quick --distill --learning_rate 1e-4

Variables; paths are relative to the repository:
  BASE_MODEL       the MHA model: mha (the bundled one, default), a folder, or a hub id such as
                   facebook/wav2vec2-conformer-rel-pos-large-960h-ft
  MLA_DIR          the converted model, made if it is missing; default: checkpoints/<base>_mla
                   (conformer_mla_from_hf for the reference model)
  CONVERT_OPTIONS  for that conversion; default: --cache_reduction 0.75, calibrated on what is learnt from
  OUTPUT_DIR       default: results/<base>_mla_finetuned (conformer_mla_finetuned), and _quick after it
  TRAIN_DATA, DEV_DATA   manifests, tables, Kaldi or LibriSpeech folders, LibriSpeech splits, hf:dataset:split
  DATA_DIR         a LibriSpeech tree; train-clean-100 and dev-clean are taken
                   Without these: LibriSpeech where it is in data/, else data/speech (`make speech`)
  PYTHON           default: .venv/bin/python, else python3
A run that was stopped goes on where it was when the same command is given again.
TEXT
}

mode="${1:-}"
case "$mode" in
  quick) settings=(--num_epochs 5 --learning_rate 1e-5 --batch_size 4 --gradient_accumulation_steps 4
    --max_train_samples 1000 --save_steps 200 --eval_steps 200) ;;
  full) settings=(--num_epochs 10 --learning_rate 1e-5 --batch_size 8 --gradient_accumulation_steps 2
    --warmup_steps 500 --save_steps 1000 --eval_steps 1000) ;;
  -h | --help) usage && exit ;;
  *) echo "run_mla_finetuning.sh: the mode is '$mode'; choices: quick, full (--help says more)" >&2 && exit 2 ;;
esac
shift
cd "$(dirname "$0")"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
case " $* " in *" --help "* | *" -h "*) exec "$PYTHON" -m offline.finetune --help ;; esac

option() { # option --a-b WORDS...: what the words say of it, as --a-b x, --a_b x or --a-b=x
  local name="$1" before="" word
  shift
  for word in "$@"; do
    [ "${before//_/-}" != "$name" ] || { echo "$word" && return; }
    [ "$(tr _ - <<<"${word%%=*}")=" != "$name=" ] || [ "$word" = "${word%%=*}" ] || { echo "${word#*=}" && return; }
    before="$word"
  done
}
train="$(option --train-manifest "$@")" dev="$(option --dev-manifest "$@")"
train="${train:-${TRAIN_DATA:-}}" dev="${dev:-${DEV_DATA:-}}"
tree="$(option --data-dir "$@")$(option --offline-data-dir "$@")"
tree="${tree:-${DATA_DIR:-}}"

# Before a conversion that can take minutes.
if [ "${train:+1}" != "${dev:+1}" ]; then
  echo "run_mla_finetuning.sh: speech to learn from is '$train' and dev speech '$dev': TRAIN_DATA and DEV_DATA, or" \
    "--train_manifest and --dev_manifest, go together" >&2 && exit 2
fi

BASE_MODEL="${BASE_MODEL:-mha}"
case "$BASE_MODEL" in
  facebook/wav2vec2-conformer-rel-pos-large-960h-ft*) converted=conformer_mla_from_hf tuned=conformer_mla_finetuned ;;
  *) name="$(basename "${BASE_MODEL%%@*}")" && converted="${name}_mla" tuned="${name}_mla_finetuned" ;;
esac
MLA_DIR="${MLA_DIR:-checkpoints/$converted}"
OUTPUT_DIR="${OUTPUT_DIR:-results/$tuned$([ "$mode" = full ] || echo "_$mode")}"

data=()
[ -z "${TRAIN_DATA:-}" ] || data+=(--train_manifest "$TRAIN_DATA")
[ -z "${DEV_DATA:-}" ] || data+=(--dev_manifest "$DEV_DATA")
[ -z "${DATA_DIR:-}" ] || data+=(--data_dir "$DATA_DIR")
# What the conversion can be calibrated on: what is learnt from, where that is a file or a folder here.
calibration="$train"
if [[ -z "$calibration" && ! " $* " =~ \ --(use[_-]hf[_-]dataset|download)\  ]]; then
  root="${tree:-${LIBRISPEECH_ROOT:-data}}"
  places=("$root"/{LibriSpeech,librispeech/LibriSpeech,librispeech,.}/train-clean-100)
  [ -n "$tree" ] || places+=(data/speech/train.jsonl)
  for place in "${places[@]}"; do
    [ -n "$calibration" ] || [ ! -e "$place" ] || calibration="$place"
  done
  if [ -z "$calibration" ]; then
    echo "run_mla_finetuning.sh: there is no speech to learn from; looked for ${places[*]}. Set TRAIN_DATA and" \
      "DEV_DATA, or DATA_DIR to a LibriSpeech tree, or add --use_hf_dataset to fetch LibriSpeech's train-clean-100, or make" \
      "data/speech with: make speech" >&2
    exit 2
  fi
fi

finetune=(--base_model "$BASE_MODEL" --mla_weights "$MLA_DIR" --output_dir "$OUTPUT_DIR" "${settings[@]}"
  ${data[@]+"${data[@]}"} "$@")
if [ ! -e "$MLA_DIR/config.json" ]; then
  # Its options too before that conversion.
  "$PYTHON" -c 'import sys; sys.argv[0] = "offline.finetune"; from offline.finetune import parser; parser().parse_args()' \
    "${finetune[@]}"
  options=(--cache_reduction 0.75)
  [[ -z "$calibration" || "$calibration" == hf:* ]] || options+=(--calibration_manifest "$calibration")
  [ -z "$train" ] || [ -z "$tree" ] || options+=(--data_dir "$tree")
  [ -z "${CONVERT_OPTIONS:-}" ] || read -ra options <<<"$CONVERT_OPTIONS"
  echo "Converting $BASE_MODEL to $MLA_DIR"
  "$PYTHON" -m offline.convert --model_name "$BASE_MODEL" --output_dir "$MLA_DIR" "${options[@]}"
elif [ -n "${CONVERT_OPTIONS:-}" ]; then
  echo "run_mla_finetuning.sh: CONVERT_OPTIONS is '$CONVERT_OPTIONS', but $MLA_DIR is there already: name another MLA_DIR," \
    "or delete it" >&2 && exit 2
else
  echo "Taking $MLA_DIR as it is: $(grep -so '"source": "[^"]*"' "$MLA_DIR/config.json" || echo "of unknown source")"
fi

echo "Fine-tuning $MLA_DIR ($mode); the result goes to $OUTPUT_DIR"
"$PYTHON" -m offline.finetune "${finetune[@]}"
[ "$calibration" != data/speech/train.jsonl ] || dev="${dev:-data/speech/dev.jsonl}"
echo "Loss and error rates: $PYTHON -m tensorboard.main --logdir $OUTPUT_DIR"
echo "Next: $PYTHON -m offline.evaluate --model $BASE_MODEL,$OUTPUT_DIR --dataset ${dev:-test-clean} --output_file results/mine.json"
