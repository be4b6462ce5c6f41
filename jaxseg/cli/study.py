"""What a search remembers, WORKDIR/tune/study.db, and how it goes on: optuna behind four verbs.

SQLite, since a transaction is there or not whenever the process is killed. Only the parent process writes.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxseg.space import Choice, Domain
from jaxseg.typing import UserError

FILE = "study.db"
FINISHED, ENDED, FAILED, STOPPED = "finished", "ended early", "failed", "interrupted"  # how a trial can end
RUNNING = "running"
_GIVEN_UP, _STEPS, _SECONDS, _REASON = "given_up", "steps", "seconds", "reason"


class Result(NamedTuple):
    """How a trial went: one of the four ends, steps and seconds of training, and the reason of a failure."""

    end: str
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""


class Study:
    """A class because it owns a connection to a database.

    Every trial has a sampler of its own, seeded by the config and the trial's number: what trial n draws depends on the
    trials that had ended by then and on nothing else, so an interrupted search goes on as one that was not.
    """

    def __init__(self, folder: pathlib.Path, options: ConfigDict, domains: Mapping[str, Domain], *, seed: int):
        """Opens the study in a folder, or begins it.

        Args:
          folder: for the file.
          options: `config.tune`, with `first_rung` in steps.
          domains: what is searched.
          seed: of the whole search.

        Raises:
          UserError: optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "--mode tune needs the package optuna, which is not installed: pip install 'optuna>=5,<6'."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._options, self._domains, self._seed = optuna, options, domains, seed
        self._open: dict[int, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            storage=f"sqlite:///{(folder / FILE).absolute()}",
            study_name="tune",
            direction="maximize",
            pruner=self._pruner(),
            load_if_exists=True,
        )

    def _pruner(self):
        if self._options.pruner == "none":
            return self._optuna.pruners.NopPruner()
        return self._optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self._options.first_rung, reduction_factor=self._options.reduction
        )

    def _sampler(self, number: int):
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        if self._options.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._options.startup)

    def _frozen(self) -> list:
        return self._study.get_trials(deepcopy=False)

    def ended(self) -> int:
        """Returns how many trials have finished, ended early or failed."""
        return sum(trial.state.is_finished() for trial in self._frozen())

    def next(self) -> tuple[int, dict[str, Any]]:
        """Returns number and values of the next trial: one that an earlier command left unfinished, or a new one."""
        for trial in self._frozen():
            if trial.state.is_finished() or trial.number in self._open:
                continue
            if _GIVEN_UP in trial.user_attrs:  # killed when it was to end
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.PRUNED)
                continue
            self._study.sampler = self._sampler(trial.number)
            return self._begin(self._optuna.trial.Trial(self._study, trial._trial_id))
        self._study.sampler = self._sampler(len(self._frozen()))
        return self._begin(self._study.ask())

    def _begin(self, trial) -> tuple[int, dict[str, Any]]:
        self._open[trial.number] = trial
        drawn = {name: self._suggest(trial, name, domain) for name, domain in self._domains.items()}
        return trial.number, self._values(drawn)

    def _suggest(self, trial, name: str, domain: Domain):
        """Draws a value, or returns the one that was drawn before the interruption."""
        if isinstance(domain, Choice):
            return trial.suggest_categorical(name, domain.texts())
        if domain.whole:
            step = 1 if domain.log else int(domain.step or 1)
            return trial.suggest_int(name, int(domain.low), int(domain.high), step=step, log=domain.log)
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)

    def _values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        return {name: domain.value(drawn[name]) for name, domain in self._domains.items() if name in drawn}

    def report(self, number: int, step: int, score: float) -> bool:
        """Keeps a validation score and returns whether the trial should end there; a step told twice counts once."""
        trial = self._open[number]
        found = self._frozen()[number]
        if step in found.intermediate_values:
            return found.user_attrs.get(_GIVEN_UP) == step
        trial.report(score, step)
        behind = trial.should_prune()
        if behind:
            trial.set_user_attr(_GIVEN_UP, step)
        return behind

    def tell(self, number: int, result: Result) -> None:
        """Keeps how a trial ended; one that was interrupted stays open for the next command."""
        trial = self._open.pop(number)
        states = self._optuna.trial.TrialState
        for name, value in ((_STEPS, result.steps), (_SECONDS, result.seconds), (_REASON, result.reason)):
            trial.set_user_attr(name, value)
        scores = self._frozen()[number].intermediate_values.values()
        if result.end == FINISHED and scores:
            self._study.tell(number, max(scores))
        elif result.end == ENDED:
            self._study.tell(number, state=states.PRUNED)
        elif result.end != STOPPED:
            self._study.tell(number, state=states.FAIL)

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row a trial: trial, state, score (its best), steps, seconds, the fields' values, reason.

        The best trial comes first; after those that finished come those that ended early, by how far they got.
        """
        states = self._optuna.trial.TrialState
        ends = {states.COMPLETE: FINISHED, states.PRUNED: ENDED, states.FAIL: FAILED}
        rows = []
        for trial in self._frozen():
            attributes = trial.user_attrs
            rows.append(
                {
                    "trial": trial.number,
                    "state": ends.get(trial.state, RUNNING if trial.number in self._open else STOPPED),
                    "score": max(trial.intermediate_values.values(), default=float("nan")),
                    _STEPS: attributes.get(_STEPS, trial.last_step or 0),
                    _SECONDS: attributes.get(_SECONDS, float("nan")),
                    **self._values(trial.params),
                    _REASON: attributes.get(_REASON, ""),
                }
            )
        order = (FINISHED, ENDED, RUNNING, STOPPED, FAILED)

        def rank(row):
            far = 0 if row["state"] == FINISHED else -row[_STEPS]
            return order.index(row["state"]), far, -np.nan_to_num(row["score"], nan=-1.0), row["trial"]

        return sorted(rows, key=rank)
