"""The command as a person types it: Hydra's own flags keep working."""

import os
import subprocess
import sys


def typed(*words, cwd, **environment):
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run(*words, cwd):
    return typed(sys.executable, "-m", "experiments.run", *words, cwd=cwd)


def test_help_lists_the_options_without_loading_torch(tmp_path):
    shown = typed(
        sys.executable, "-X", "importtime", "-m", "experiments.run", "--help", cwd=tmp_path
    )
    assert shown.returncode == 0
    for text in ("-m sweep=he_vs_glorot", "he_normal", "cifar100", "n_train: null"):
        assert text in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "hydra" in imported
    assert "torch" not in imported


def test_cfg_job_prints_the_cell_with_a_key_for_one_layer(tmp_path):
    shown = run("--cfg", "job", "init=zeros", "init.layers.conv1.gain=2", cwd=tmp_path)
    assert shown.returncode == 0
    assert "_target_: fanin.inits.Zeros" in shown.stdout
    assert "conv1:\n      gain: 2" in shown.stdout


def test_info_prints_the_defaults(tmp_path):
    shown = run("--info", "defaults", "init=zeros", cwd=tmp_path)
    assert shown.returncode == 0
    assert "init/zeros" in shown.stdout


def test_a_mistake_is_a_few_lines_and_status_2(tmp_path):
    shown = run("init=he_norml", cwd=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith("init=he_norml: no such option; did you mean he_normal")
    assert shown.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_who_types_hydras_launcher_is_told_what_to_type(tmp_path):
    asked = "hydra/launcher=submitit_slurm"
    shown = run("-m", "seed=range(3)", "hydra.launcher.partition=gpu", asked, cwd=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith(f"{asked}: say runner=slurm instead")
    assert "runner.slurm.partition=NAME" in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_m_reaches_the_grid_engine(tmp_path):
    shown = run("-m", "seed=range(3)", "optim.lr=0.1,0.2", "sweep.mode=plan", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "6 cells: 0 done, 6 missing" in shown.stdout
    assert list(tmp_path.iterdir()) == []
