"""What are agents that improve a mask worth? Lungs in radiographs (JSRT, 64 x 64), from Otsu's threshold on.

    taskset -c 0 python -m benchmarks.agents --root=JSRT --output=runs/agents

Prints, over seeds, the Dice of 20 held-out images after each number of steps: of actor-critic refinement, the same
without its critic and with a reward map, the same network in the same episodes with supervision, both with clicks, and
of the agent over operators beside the best fixed sequence, chance and an oracle. The last checkpoint counts. Finished
runs stay.
"""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxseg import rl
from jaxseg.data import store
from jaxseg.evaluate import episodes, files
from jaxseg.metrics import compare
from jaxseg.rl import operators, strategies

ROOT = flags.DEFINE_string("root", None, "Folder of the data set.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/agents", "Where the runs go.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")

REFINE, OPERATORS = "configs/rl_refine.py:data=jsrt,initial=threshold(above=False)", "configs/rl_operators.py"
ARMS = {  # name: config, further flags
    "ac": (REFINE, []),
    "no_critic": (REFINE, ["--config.rl.value=0.0"]),
    "reward_map": (REFINE, ["--config.rl.reward_map=9"]),
    "supervised": (f"{REFINE},learner=supervised", []),
    "clicks": (f"{REFINE},clicks=5", []),
    "supervised_clicks": (f"{REFINE},learner=supervised,clicks=5", []),
    "operators": (OPERATORS, []),
}
SHOWN = (0, 1, 2, 3, 5, 10)


def folder(name: str, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{name}_{seed}"


def run(name: str, seed: int) -> None:
    """Trains and scores one run, unless that is done."""
    place, (config, further) = folder(name, seed), ARMS[name]
    if (place / files.FOLDER / episodes.FOLDER / episodes.SUMMARY).exists():
        return
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
    rows = [[{"case": case, "class": "lung", "dice": value} for case, value in one.items()] for one in (before, after)]
    found = compare(*rows)
    return f"{found['mean_difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


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
    for seed in range(SEEDS.value):
        for name in ARMS:
            run(name, seed)
    lines(list(ARMS), episodes.STEPS, "step")
    lines(["clicks", "supervised_clicks"], episodes.CLICKS, "click")
    five = {name: over_seeds(by_case(name, episodes.STEPS, "step"), 5) for name in ARMS}
    for name in ("no_critic", "reward_map", "supervised"):
        print(f"{name} against ac, 5 steps: {gap(five['ac'], five[name])}")
    strategies_table()


if __name__ == "__main__":
    app.run(main)
