"""Command line of `experiments.run`, including Hydra's own flags."""

import os
import subprocess
import sys


def run_process(*arguments, cwd, **environment):
    return subprocess.run(
        [str(word) for word in arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run(*arguments, cwd):
    return run_process(sys.executable, "-m", "experiments.run", *arguments, cwd=cwd)


def test_help_lists_the_options_without_importing_torch(tmp_path):
    process = run_process(
        sys.executable, "-X", "importtime", "-m", "experiments.run", "--help", cwd=tmp_path
    )
    assert process.returncode == 0
    for text in ("-m sweep=he_vs_glorot", "he_normal", "cifar100", "n_train: null"):
        assert text in process.stdout
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "hydra" in imported
    assert "torch" not in imported


def test_cfg_job_prints_a_cell_with_a_key_for_one_layer(tmp_path):
    process = run("--cfg", "job", "init=zeros", "init.layers.conv1.gain=2", cwd=tmp_path)
    assert process.returncode == 0
    assert "_target_: fanin.inits.Zeros" in process.stdout
    assert "conv1:\n      gain: 2" in process.stdout


def test_info_prints_the_defaults(tmp_path):
    process = run("--info", "defaults", "init=zeros", cwd=tmp_path)
    assert process.returncode == 0
    assert "init/zeros" in process.stdout


def test_invalid_option_prints_one_line_and_exits_with_2(tmp_path):
    process = run("init=he_norml", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("init=he_norml: no such option; did you mean he_normal")
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_hydra_launcher_is_refused_in_favor_of_runner_slurm(tmp_path):
    launcher = "hydra/launcher=submitit_slurm"
    process = run("-m", "seed=range(3)", "hydra.launcher.partition=gpu", launcher, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith(f"{launcher}: use runner=slurm instead")
    assert "runner.slurm.partition=NAME" in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_multirun_plans_the_grid(tmp_path):
    process = run("-m", "seed=range(3)", "optim.lr=0.1,0.2", "sweep.mode=plan", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "6 cells: 0 done, 6 missing" in process.stdout
    assert list(tmp_path.iterdir()) == []
