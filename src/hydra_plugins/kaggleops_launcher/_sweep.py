"""A sweep whose points one of Hydra's sweepers proposes.

Its parent's id follows from the commit, the program's name and what was typed, and a job that was
tried before is found by its overrides. So the same command, started again after Ctrl-C, a closed
laptop or a power cut, goes on: it submits what is lacking, and returns what there is. The jobs are
trials like those of `kaggleops sweep`: any watcher of the bucket places them, and ends them.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from kaggleops.bucket.location import tracking_uri
from kaggleops.campaign import children, request
from kaggleops.campaign.search import GIVEN
from kaggleops.campaign.state import SweepState, is_sent, waits_for_a_machine
from kaggleops.campaign.sweep import Point, Sweep, Trial, next_number
from kaggleops.campaign.watch import Watcher
from kaggleops.cli.indexed import require_index
from kaggleops.cli.options import bucket_at, bucket_of, in_no_way
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch.launcher import Launch, prepared, temporary_folder
from kaggleops.launch.overrides import Overrides
from kaggleops.reports.statistics import higher_is_better
from kaggleops.server.settings import default_index
from kaggleops.tags import FAILURE, JOB_ENDED, PAUSED

if TYPE_CHECKING:
    from hydra_plugins.kaggleops_launcher.launcher import KaggleOpsLauncherConf

_log = logging.getLogger(__name__)


class HydraSweep:
    """The sweep of one start of a program.

    Raises CompactHydraException, which Hydra shows as one line, for what a user has to mend.
    """

    def __init__(self, fields: "KaggleOpsLauncherConf", config: DictConfig) -> None:
        self._config = config
        with _compact():
            require_index()
            how = "Add hydra.launcher.bucket=gs://BUCKET"
            self._place = in_no_way(bucket_of(fields.bucket or None, how))
            self._commit = find_commit(Path())
            if self._commit.uncommitted:
                hint = "Commit what `git status` shows: the jobs run the commit."
                raise UsageError(_DOING, f"{self._commit.changes} not committed", hint)
            self._what = Launch(tracking_uri(self._place), entry_point=fields.entry_point)
            named, automatic = request.backend_names(_list(fields.backends))
            where = (self._what.tracking_uri, named, self._commit, fields.at_once)
            sites, problems = request.sites_of(*where, automatic=automatic)
            for problem in problems:
                _log.info("%s", problem)
            metrics = _list(fields.metric)
            self._sweep = Sweep(
                (),
                entry_point=fields.entry_point,
                sampler=GIVEN,
                metrics=metrics,
                directions=self._directions(metrics),
                backends=[request.AUTO] if automatic else named,
                configs=request.configs_of(sites),
                budget=fields.budget,
                at_once=fields.at_once,
            )
            self._name = fields.name or str(config.hydra.job.name)
            typed = map(str, config.hydra.overrides.task)
            known_by = (self._commit.sha, fields.entry_point, self._name, *typed)
            self._id = hashlib.sha256("\0".join(["hydra", *known_by]).encode()).hexdigest()[:32]

    def _directions(self, metrics: Sequence[str]) -> Any:
        told = OmegaConf.select(self._config, "hydra.sweeper.direction")  # Optuna's sweeper has one
        if told is not None:
            found = [str(getattr(each, "name", each)) for each in _list(told)]
            if len(found) == len(metrics) and set(found) <= {"maximize", "minimize"}:
                return found
        return ["maximize" if higher_is_better(each) else "minimize" for each in metrics]

    # -- a batch of jobs --------------------------------------------------------------------------

    def launch(
        self, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int
    ) -> list[JobReturn]:
        """Return what became of each job; nothing is submitted if one has a bad configuration."""
        setup_globals()
        hydra = self._config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose)
        Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        configs = []
        for at, overrides in enumerate(job_overrides, first):
            configs.append(loader.load_sweep_config(self._config, list(overrides)))
            with open_dict(configs[-1]):
                configs[-1].hydra.job.id, configs[-1].hydra.job.num = str(at), at
        jobs = [list(filter_overrides(overrides)) for overrides in job_overrides]
        # The watcher imports what registers itself with Hydra's singletons, and must not.
        state = Singleton.get_state()
        try:
            with _compact():
                self._check(jobs)
                trials = self._run([_point(each) for each in jobs])
        finally:
            Singleton.set_state(state)
        return [self._returned(*each) for each in zip(job_overrides, configs, trials, strict=True)]

    def _check(self, jobs: Sequence[Sequence[str]]) -> None:
        with temporary_folder() as folder:
            files = write_project_files(self._commit, folder / "code")
            for each in jobs:
                what = replace(self._what, overrides=Overrides(each, None))
                prepared(files, self._commit, what, None)

    def _run(self, points: Sequence[Point]) -> list[Trial]:
        """Return the trials of some points, ended, or left out of a sweep that is paused."""
        uri = self._what.tracking_uri
        children.begin(self._commit, self._what, self._sweep, self._name, self._id)
        watcher = Watcher(
            self._place, index=default_index(self._place), bucket=bucket_at(self._place)
        )
        said: set[str] = set()
        try:
            state, pause = self._look(watcher, said)
            new = [each for each in points if _trial(state, each) is None]
            for point in new:
                state = self._with_trial(state, point)
            while not (trials := _all_ended(state, points)):
                watcher.wait(0.0 if new else pause, threading.Event())
                new = []
                state, pause = self._look(watcher, said)
        except KeyboardInterrupt:
            _log.info("The jobs go on. Continue with the same command, or with kaggleops watch")
            raise
        finally:
            watcher.close()
        if not state.tags.get(PAUSED):
            finished = any(each.status == "FINISHED" for each in state.trials)
            children.end(uri, self._id, "FINISHED" if finished else "FAILED")
        return trials

    def _look(self, watcher: Watcher, said: set[str]) -> tuple[SweepState, float]:
        """Return what the sweep is at after a turn, and how long the next one may wait."""
        while True:
            turn = watcher.turn()
            waits = [f"waits: {each}" for each in turn.waiting.values() if each]
            for line in (*turn.done, *waits, *turn.problems):
                if line not in said:
                    _log.log(logging.WARNING if line in turn.problems else logging.INFO, "%s", line)
            said |= {*turn.done, *waits, *turn.problems}
            if turn.read and (found := [each for each in turn.sweeps if each.id == self._id]):
                return found[0], turn.pause
            watcher.wait(turn.pause, threading.Event())

    def _with_trial(self, state: SweepState, point: Point) -> SweepState:
        number = next_number(state.trials)
        (run,) = children.make_trial(self._what.tracking_uri, state, number, point)
        job = children.job_of(number, run)  # another start may have been faster, with another point
        trial = Trial(number, job.run_id, job.point, [job], status=job.status)
        made = replace(state, trials=[*state.trials, trial])
        return made if job.point == point else self._with_trial(made, point)

    def _returned(self, overrides: Sequence[str], config: DictConfig, trial: Trial) -> JobReturn:
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        name = str(config.hydra.job.name)
        found = JobReturn(list(overrides), task, config, str(config.hydra.sweep.dir), name)
        doing = f"running trial {trial.number} ({' '.join(overrides)})"
        hint = f"See `kaggleops logs {trial.run_id}`."
        missing = [each for each in self._sweep.metrics if each not in trial.jobs[0].metrics]
        if trial.status == "FINISHED" and not missing:
            values = [trial.jobs[0].metrics[each] for each in self._sweep.metrics]
            found.status = JobStatus.COMPLETED
            found.return_value = values[0] if len(values) == 1 else tuple(values) or None
            return found
        problem = f"it has logged no metric {missing[0]!r}" if missing else ""
        if trial.status != "FINISHED":
            tags = trial.jobs[0].tags
            problem = tags.get(FAILURE) or tags.get(JOB_ENDED) or f"it is {trial.status}"
        found.status = JobStatus.FAILED
        found.return_value = CompactHydraException(f"error: {KaggleOpsError(doing, problem, hint)}")
        return found


_DOING = "running its jobs with KaggleOps"


def _list(told: Any) -> list[str]:
    """Return what a field names: a text, or a list of them."""
    found = OmegaConf.to_container(told) if OmegaConf.is_config(told) else told
    return [str(each) for each in (found if isinstance(found, list) else [found]) if each]


def _point(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (each.partition("=") for each in overrides)}


def _trial(state: SweepState, point: Point) -> Trial | None:
    return next((each for each in state.trials if dict(each.point) == dict(point)), None)


def _all_ended(state: SweepState, points: Sequence[Point]) -> list[Trial]:
    """Return the trials of some points; none before all have ended."""
    trials = [each for each in (_trial(state, point) for point in points) if each]
    over = len(trials) == len(points) and all(_ended(each, state) for each in trials)
    return trials if over else []


def _ended(trial: Trial, state: SweepState) -> bool:
    """Tell whether nothing will come of a trial: not even later, where its sweep is paused."""
    paused = bool(state.tags.get(PAUSED))
    return not any(is_sent(job) or (waits_for_a_machine(job) and not paused) for job in trial.jobs)


@contextmanager
def _compact() -> Iterator[None]:
    """Let Hydra show our errors as one line, as it shows its own."""
    try:
        yield
    except KaggleOpsError as error:
        raise CompactHydraException(f"error: {error}") from error
