#!/bin/bash

# Parameters
#SBATCH --array=0-5%6
#SBATCH --cpus-per-task=4
#SBATCH --error=TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_0_log.err
#SBATCH --gres=gpu:1
#SBATCH --job-name=s.TOKEN
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=120

# setup
module load cuda/12.4
source "$HOME/my env/bin/activate"
export PYTHONPATH=PROJECT_ROOT${PYTHONPATH:+:$PYTHONPATH}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_%t_log.out --error TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_%t_log.err apptainer exec --nv /images/torch.sif '/opt/my python/bin/python' -u -m experiments.sweep.slurm.array_task TMP_PATH/results/s TOKEN

