"""What are agents that improve a mask worth? Lungs in radiographs (JSRT) and polyps (Kvasir-SEG), both at 64 x 64.

    taskset -c 0 python -m benchmarks.agents --root=JSRT --output=runs/agents
    taskset -c 0 python -m benchmarks.agents --data=kvasir --root=KVASIR --output=runs/agents_kvasir

Lungs start from Otsu's threshold, polyps from a U-Net that was trained for 100 updates, one a seed. Prints, over seeds,
the Dice of held-out images (20 and 40) after each number of steps: of actor-critic refinement, its variants, the same
network in the same episodes with supervision, both with clicks; of lungs also the agent over operators beside the best
fixed sequence, chance and an oracle. Draws held-out Dice while training to OUTPUT/learning.svg. The last checkpoint
counts. Finished runs stay.
"""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import paired
from jaxseg import rl, viz
from jaxseg.data import store
from jaxseg.evaluate import episodes, files
from jaxseg.metrics import compare
from jaxseg.rl import operators, strategies

DATA = flags.DEFINE_enum("data", "jsrt", ["jsrt", "kvasir"], "Which data set.")
ROOT = flags.DEFINE_string("root", None, "Folder of the data set.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/agents", "Where the runs go.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")

WHOLE = {"coarse": "configs/rl_refine.py:coarse", "operators": "configs/rl_operators.py"}
REFINE = {
    "jsrt": "configs/rl_refine.py:data=jsrt,initial=threshold(above=False)",
    "kvasir": "configs/rl_refine.py:initial={coarse}",
}
VARIANTS = {  # of refinement. name: the config's arguments, further flags
    "ac": ("", []),
    "no_critic": ("", ["--config.rl.value=0.0"]),
    "reward_map": ("", ["--config.rl.reward_map=9"]),
    "dice": ("", ["--config.rl.reward=dice"]),
    "supervised": (",learner=supervised", []),
    "clicks": (",clicks=5", []),
    "supervised_clicks": (",learner=supervised,clicks=5", []),
}
ARMS = {
    "jsrt": ("ac", "no_critic", "reward_map", "dice", "supervised", "clicks", "supervised_clicks", "operators"),
    "kvasir": ("ac", "dice", "supervised", "clicks", "supervised_clicks"),
}
CLICKED = {"clicks": "ac", "supervised_clicks": "supervised"}  # and the same without clicks
CLASSES = {"jsrt": "lung", "kvasir": "polyp"}
SHOWN = (0, 1, 2, 3, 5, 10)


def folder(name: str, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{name}_{seed}"


def run(name: str, seed: int) -> None:
    """Trains and scores one run, unless that is done."""
    place = folder(name, seed)
    scored = files.SUMMARY if name == "coarse" else f"{episodes.FOLDER}/{episodes.SUMMARY}"
    if (place / files.FOLDER / scored).exists():
        return
    arguments, further = VARIANTS.get(name, ("", []))
    config = WHOLE.get(name) or REFINE[DATA.value].format(coarse=folder("coarse", seed)) + arguments
    command = [
        sys.executable, "launch.py", f"--config={config}", *further, f"--workdir={place}", f"--config.seed={seed}",
        f"--config.data.root={ROOT.value}", f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}",
        "--config.predict.checkpoint=latest",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def by_case(name: str, table: str, column: str) -> list[dict[str, np.ndarray]]:
    """Returns, for each seed, case -> Dice by step (or by click)."""
    found = []
    for seed in range(SEEDS.value):
        own: dict[str, list[float]] = {}
        lines = (folder(name, seed) / files.FOLDER / episodes.FOLDER / table).read_text().splitlines()
        head = lines[0].split(",")
        for line in lines[1:]:
            row = dict(zip(head, line.split(",")))
            assert int(row[column]) == len(own.setdefault(row["case"], []))
            own[row["case"]].append(float(row["dice"]))
        found.append({case: np.array(values) for case, values in own.items()})
    return found


def gap(before: dict[str, float], after: dict[str, float]) -> str:
    """The paired difference over cases, with its interval."""
    common = {"class": CLASSES[DATA.value]}
    rows = [[{"case": case, **common, "dice": value} for case, value in one.items()] for one in (before, after)]
    return paired.difference(compare(*rows))


def over_seeds(runs: list[dict[str, np.ndarray]], place: int) -> dict[str, float]:
    """Case -> Dice, mean over seeds."""
    return {case: float(np.mean([own[case][place] for own in runs])) for case in runs[0]}


def lines(names: list[str], table: str, column: str) -> None:
    """Prints a row an arm."""
    print(f"\n| arm | {' | '.join(f'{column} {n}' for n in SHOWN)} | change at {SHOWN[-2]} | seeds at {SHOWN[-2]} |")
    print("|" + " --- |" * (len(SHOWN) + 3))
    for name in names:
        runs = by_case(name, table, column)
        means = [np.mean(list(over_seeds(runs, place).values())) for place in SHOWN]
        seeds = ", ".join(f"{np.mean([own[case][SHOWN[-2]] for case in own]):.3f}" for own in runs)
        change = gap(over_seeds(runs, 0), over_seeds(runs, SHOWN[-2]))
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} | {change} | {seeds} |")


def learning(name: str, seed: int) -> tuple[list[float], list[float]]:
    """Returns the steps at which a run was scored while it trained, and its held-out Dice there."""
    rows = [json.loads(line) for line in (folder(name, seed) / "metrics.jsonl").read_text().splitlines()]
    scored = [row for row in rows if "val/dice" in row]
    return [row["step"] for row in scored], [row["val/dice"] for row in scored]


def draw_learning(names: list[str]) -> None:
    """Draws held-out Dice by training step, a thin line a seed."""
    curves = {name: [learning(name, seed) for seed in range(SEEDS.value)] for name in names}
    picture = viz.learning_curves(curves, metric="held-out Dice")
    assert picture is not None, "the runs hold no score of held-out images"
    (pathlib.Path(OUTPUT.value) / "learning.svg").write_bytes(picture)


def strategies_table() -> None:
    """Prints what fixed sequences, chance and an oracle reach on the images of the agent over operators."""
    place = folder("operators", 0)
    record = json.loads((place / "config.json").read_text())
    cases = store.open(record["store"])
    start, rules = rl.start.threshold(above=False), operators.Rules(steps=6)

    def planes(names: list[str]):
        chosen = [case for case in cases if case.name in names]
        pairs = [store.read_patch(case, (0, 0), case.shape) for case in chosen]
        image, label = (jnp.asarray(np.stack(part)) for part in zip(*pairs))
        true = label == 1
        return start.apply({}, image)[..., 1], true, jnp.ones(true.shape, bool)

    training, held_out = (planes(record["split"][part]) for part in ("training", "held out"))
    best = strategies.best_sequence(*training, rules=rules, length=3)
    fixed = strategies.apply_sequence(*held_out, best.actions, rules=rules)
    rows = {
        f"best fixed sequence ({', '.join(operators.OPERATORS[action] for action in best.actions)})": fixed,
        "random actions": strategies.random_policy(jax.random.key(0), *held_out, rules=rules),
        "greedy oracle": strategies.greedy_oracle(*held_out, rules=rules),
    }
    print("\n| strategy | Dice |\n| --- | --- |")
    for name, played in rows.items():
        print(f"| {name} | {np.asarray(played.dice)[:, -1].mean():.3f} |")
    print(
        f"| each its own best sequence of 3 | {strategies.best_sequence(*held_out, rules=rules).possible.mean():.3f} |"
    )
    agent = [np.mean([values[6] for values in own.values()]) for own in by_case("operators", episodes.STEPS, "step")]
    print(f"| agent, 6 steps | {np.mean(agent):.3f} ({', '.join(f'{one:.3f}' for one in agent)}) |")
    names = [name for name in record["split"]["held out"]]
    order = [case.name for case in cases if case.name in names]
    own = over_seeds(by_case("operators", episodes.STEPS, "step"), 6)
    reached = dict(zip(order, np.asarray(fixed.dice)[:, -1].astype(float)))
    print(f"\nagent against the best fixed sequence: {gap(reached, own)}")


def main(_) -> None:
    """Runs what is missing, then prints the tables."""
    names = list(ARMS[DATA.value])
    for seed in range(SEEDS.value):
        for name in (["coarse"] if DATA.value == "kvasir" else []) + names:
            run(name, seed)
    lines(names, episodes.STEPS, "step")
    lines(list(CLICKED), episodes.CLICKS, "click")
    five = {name: over_seeds(by_case(name, episodes.STEPS, "step"), 5) for name in names}
    for name in [name for name in names if name not in ("ac", "operators")]:
        print(f"{name} against ac, 5 steps: {gap(five['ac'], five[name])}")
    for name, without in CLICKED.items():
        reached = over_seeds(by_case(name, episodes.CLICKS, "click"), 10)
        print(f"{name}, 10 clicks, against 5 steps of {without}: {gap(five[without], reached)}")
    draw_learning([name for name in names if name != "operators"])
    if DATA.value == "jsrt":
        strategies_table()


if __name__ == "__main__":
    app.run(main)
