"""run_tpu.sh: the commands that it would give, and its loop against a gcloud that loses the machine twice."""

import os
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "run_tpu.sh"
JOB = ("--", "--config", "configs/unet3d.py", "--workdir", "gs://bucket/my run")
# Creating makes the machine; the first job dies with it, the second is told to stop, the third ends well.
GCLOUD = """#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >> calls
case "$*" in
  *" create "*) echo READY > state ;;
  *" delete "*) rm -f state ;;
  *" describe "*) cat state ;;
  *launch.py*)
    echo run >> runs
    case $(wc -l < runs) in
      1) echo PREEMPTED > state; exit 255 ;;
      2) rm state; echo "stopped by SIGTERM after step 7; the same command resumes there" ;;
      *) echo trained ;;
    esac ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def call(*arguments, **environment):
    settings = {"REPOSITORY": "https://example.org/jaxseg.git", "PAUSE": "0", **environment}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env={**os.environ, **settings}, timeout=120
    )


def test_dry_run_prints_every_command():
    done = call("--dry-run", "loop", *JOB, SPOT="1", NAME="slice", TYPE="v5litepod-16", ZONE="zone-a", PROJECT="mine")
    create, setup, run = done.stdout.splitlines()
    assert done.returncode == 0 and create == (
        "gcloud compute tpus tpu-vm create slice --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite "
        "--zone=zone-a --project=mine --spot "
    )
    assert "--worker=all" in setup and "requirements-tpu.txt" in setup and "--worker=all" in run
    assert run.replace("\\", "").endswith("launch.py --config configs/unet3d.py --workdir gs://bucket/my run  ")
    queued = call("--dry-run", "create", QUEUED="1").stdout
    assert "queued-resources create jaxseg --node-id=jaxseg" in queued and "--spot" not in queued


def test_loop_makes_the_machine_again_until_the_job_has_ended(tmp_path):
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    done = call("loop", *JOB, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    kinds = [word for line in calls for word in (" create ", " delete ", "launch.py", "requirements") if word in line]
    once = [" create ", "requirements", "launch.py"]
    assert kinds == [*once, " delete ", *once, *once]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("run",), "nothing to run"), (("setup",), "REPOSITORY is not set"), (("fly",), "create|setup|run|loop|delete")],
)
def test_mistakes_are_told(arguments, message):
    done = call("--dry-run", *arguments, REPOSITORY="")
    assert done.returncode == 2 and message in done.stderr and not done.stdout
