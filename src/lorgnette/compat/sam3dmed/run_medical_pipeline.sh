#!/usr/bin/env bash
# Prepare, train, evaluate: run_medical_pipeline.sh DATA_ROOT CHECKPOINT_DIR [flags of train_medical]
set -euo pipefail
data_root=${1:?the folder of cases comes first}
checkpoint_dir=${2:?the folder for checkpoints comes second}
shift 2
python=${PYTHON:-python}
"$python" -m lorgnette.compat.sam3dmed.train_medical --use_dataset --data_root "$data_root" \
  --checkpoint_dir "$checkpoint_dir" "$@"
evaluated=()
while (($#)); do # those flags that both commands have
  case $1 in
    --resolution | --features | --size | --base | --device) evaluated+=("$1" "$2"); shift 2 ;;
    *) shift ;;
  esac
done
"$python" -m lorgnette.compat.sam3dmed.eval_medical --checkpoint "$checkpoint_dir/final.pt" \
  --data_root "$data_root" --output_dir "$checkpoint_dir" ${evaluated[@]+"${evaluated[@]}"}
