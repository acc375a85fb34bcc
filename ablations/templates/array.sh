#!/bin/bash
#SBATCH --job-name=ablation
#SBATCH --array=0-{{ runs | length - 1 }}
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=ablation-%A-%a.log
# One task a run. A stopped run writes a checkpoint: submit the same script again to go on; finished runs are
# skipped. For many GPUs a row, ask for them above and put `torchrun --nproc-per-node N` in place of python.
cd {{ here }}
ROWS=({{ runs | map(attribute="row.name") | join(" ") }})
SEEDS=({{ runs | map(attribute="seed") | join(" ") }})
TASK=$SLURM_ARRAY_TASK_ID
exec python {{ script }} --rows "${ROWS[$TASK]}" --seed "${SEEDS[$TASK]}" \
    {{ options }}
