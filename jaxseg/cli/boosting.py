"""Boosting (ensemble.kind = boosting, gradient_boosting): each round is trained on what those before it do badly."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxseg import ensemble, metrics, tasks
from jaxseg.cli import build, case_dice, member, splitting, workdir
from jaxseg.cli import train as training
from jaxseg.data import store
from jaxseg.train import parallel, processes
from jaxseg.train import state as states

Members = Sequence[workdir.Arguments]


def cases(arguments: workdir.Arguments, members: Members, prepared: dict[str, Any]) -> dict[str, Any]:
    """AdaBoost over cases: those that the last round did badly are drawn more often in the next.

    A case's loss is 1 - its mean Dice. Ends when a round is no better than chance, or when `ensemble.patience` rounds
    have not raised the Dice of the cases set aside for that.
    """
    config = arguments.config
    known = build.stored_facts(prepared)
    stored = store.open(build.store_folder(config, arguments.workdir))
    train_cases, validation = splitting.split(members[0].config, stored)
    task = build.task(members[0].config, known)
    like = build.state_shapes(members[0].config, known, task)
    look = training.viewer(config, known, task)
    seen: dict[tuple[str, str], np.ndarray] = {}

    def fit(number: int, weights: np.ndarray) -> workdir.Arguments:
        sampling = {case.name: float(weight) for case, weight in zip(train_cases, weights)}
        member.train(members[number], prepared, sampling=sampling)
        return members[number]

    def variables(one: workdir.Arguments) -> Any:
        return parallel.local(states.inference_variables(member.state_of(one, like)))

    def losses_of(one: workdir.Arguments) -> np.ndarray:
        own = variables(one)
        found = processes.share(lambda case: metrics.finite_mean(case_dice.dice(*look(own, case), known)), train_cases)
        losses = 1 - np.asarray(found)
        print(f"{one.workdir.name}: Dice {metrics.finite_mean(found):.4f} on the {len(losses)} training cases")
        return losses

    def validate(trained: Members, votes: Sequence[float]) -> float:
        own = variables(trained[-1])

        def score(case: store.StoredCase) -> float:
            probabilities, label = look(own, case)
            seen[trained[-1].workdir.name, case.name] = probabilities.astype(np.float16)
            each = [seen[one.workdir.name, case.name].astype(np.float32) for one in trained]
            together = vote(each, votes, regions=bool(known.regions), combine=member.combination(config))
            return metrics.finite_mean(case_dice.dice(together, label, known))

        found = metrics.finite_mean(processes.share(score, validation))
        print(f"rounds 0 to {len(trained) - 1}: Dice {found:.4f} on the {len(validation)} cases set aside", flush=True)
        return found

    boosted = ensemble.boost(
        fit,
        losses_of,
        cases=len(train_cases),
        rounds=config.ensemble.members,
        shrinkage=config.ensemble.shrinkage,
        relative=False,  # 1 - Dice has a scale; relative to the worst case a fair first round ends the boosting
        patience=config.ensemble.patience,
        validate=validate,
    )
    return {
        "members": [one.workdir.name for one in boosted.members],
        "weights": [float(value) for value in boosted.votes],
        "rounds": [
            {"name": one.workdir.name, "error": entry.error, "vote": entry.vote, "validation": _finite(entry.score)}
            for one, entry in zip(members, boosted.history)
        ],
        "kept": [one.workdir.name for one in boosted.members],
    }


def vote(probabilities: Sequence[np.ndarray], votes: Sequence[float], *, regions: bool, combine: str) -> np.ndarray:
    """Returns the weighted mean of the members' probabilities, or of their logarithms (logits)."""
    how: Literal["probabilities", "logarithms"] = "probabilities" if combine == "probabilities" else "logarithms"
    return ensemble.vote_probabilities(probabilities, votes, combine=how, regions=regions)


def logits(arguments: workdir.Arguments, members: Members, prepared: dict[str, Any]) -> dict[str, Any]:
    """Gradient boosting of the logits: every round is trained on what the sum of the rounds before it lacks.

    Every round's checkpoint holds the whole sum. Ends when `ensemble.patience` rounds have not raised the Dice of the
    cases set aside; the best round so far is the ensemble.
    """
    config = arguments.config
    known = build.stored_facts(prepared)
    stored = store.open(build.store_folder(config, arguments.workdir))
    _, validation = splitting.split(members[0].config, stored)
    scores: list[float] = []
    earlier: list[Any] = []
    for one in members:

        def start(state: states.State, earlier: list[Any] = earlier) -> states.State:
            return state._replace(extra=tasks.with_earlier(state.extra, earlier)) if earlier else state

        member.train(one, prepared, start=start)
        task = build.task(one.config, known)
        state = member.state_of(one, build.state_shapes(one.config, known, task))
        own = parallel.local(states.inference_variables(state))
        look = training.viewer(one.config, known, task)
        found = processes.share(lambda case: metrics.finite_mean(case_dice.dice(*look(own, case), known)), validation)  # noqa: B023
        scores.append(metrics.finite_mean(found))
        print(f"rounds 0 to {len(scores) - 1}: Dice {scores[-1]:.4f} on the {len(validation)} cases set aside")
        earlier = tasks.variables_of(own["params"], own["extra"])
        best = int(np.argmax(scores))
        if config.ensemble.patience and len(scores) - 1 - best >= config.ensemble.patience:
            break
    rounds = [{"name": one.workdir.name, "validation": _finite(score)} for one, score in zip(members, scores)]
    kept = [one.workdir.name for one in members[: best + 1]]
    return {"members": kept[-1:], "rounds": rounds, "kept": kept}  # the last one's checkpoint is the whole sum


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
