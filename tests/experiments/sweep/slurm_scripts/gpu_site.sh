#!/bin/bash

# Parameters
#SBATCH --account=deep
#SBATCH --array=0-3%3
#SBATCH --constraint='infiniband&avx512'
#SBATCH --cpus-per-task=16
#SBATCH --error=TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_0_log.err
#SBATCH --exclude=node7
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:2
#SBATCH --job-name=s.TOKEN
#SBATCH --mail-type=END
#SBATCH --mem=62500M
#SBATCH --nice=100
#SBATCH --nodelist='node[1-20]'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_0_log.out
#SBATCH --partition=a100
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=friday
#SBATCH --signal=USR2@120
#SBATCH --time=1440

# setup
export PYTHONPATH=PROJECT_ROOT${PYTHONPATH:+:$PYTHONPATH}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_%t_log.out --error TMP_PATH/results/s/slurm/TOKEN/logs/%A_%a_%t_log.err PYTHON -u -m experiments.sweep.slurm.array_task TMP_PATH/results/s TOKEN

