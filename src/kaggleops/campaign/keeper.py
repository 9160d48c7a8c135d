"""What a sweep lacks, done: its jobs looked after, pruned, made and placed, until it is over.

Each act, done twice, is done once: a job that is made again is the same run. A sweep that cannot be
kept going is named, and the others go on.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kaggleops.backends.answers import number
from kaggleops.backends.base import Backend
from kaggleops.campaign import children
from kaggleops.campaign.hosts import Hosts
from kaggleops.campaign.publisher import Publisher
from kaggleops.campaign.search import Search, blind
from kaggleops.campaign.state import OPEN, SweepState, is_sent, waits_for_a_machine
from kaggleops.campaign.submissions import Submissions
from kaggleops.campaign.sweep import Job, Trial, next_number, trial_id
from kaggleops.campaign.turn import Context, Turn
from kaggleops.launch.legs import legs_of
from kaggleops.reports.history import History
from kaggleops.tags import JOB_ENDED, PAUSED, PRUNED, RESUMED, SUBMITTED_TO, TOLD

_AT_A_TIME = 8  # trials that are asked for in a turn
_FAILURES = 3  # in a row, with no success, that pause a sweep


class Keeper:
    """Does what the open sweeps of a bucket lack. Not thread-safe.

    `backends` finds a backend by its name.
    """

    def __init__(self, context: Context, backends: Callable[[str], Backend[Any]] | None) -> None:
        self._uri, self._lease = context.uri, context.lease
        self._hosts = Hosts(context.uri, context.clock, backends)
        self.submissions = Submissions(context, self._hosts)
        self._publisher = Publisher(context, self._hosts)
        self._searches: dict[str, Search] = {}
        # trials of a sweep of which somebody deleted a run, by their number
        self._deleted: dict[str, dict[int, Trial]] = {}
        self._gone: set[str] = set()  # the runs of those trials whose own run was deleted

    def act(self, turn: Turn, history: History, others: Mapping[str, int]) -> None:
        """Do what the sweeps of a turn lack, and tell others.

        `history` is as the turn has read it, `others` how many jobs of no sweep each backend has.
        Raises NotLeadingError if another watcher acts, BucketError without an answer.
        """
        mine = [job for state in turn.sweeps for job in state.jobs if is_sent(job)]
        self._hosts.begin_turn(Counter(job.tags[SUBMITTED_TO] for job in mine) + Counter(others))
        for state in turn.sweeps:
            with turn.isolated(state):
                self._act(state, turn)
        with turn.isolated():
            self._publisher.publish(turn, history)
        if turn.done or turn.acted:
            turn.stale = True
            children.close_runs(self._uri)

    def _act(self, state: SweepState, turn: Turn) -> None:
        if state.status == "KILLED":
            for job in state.jobs:
                if job.status in OPEN:
                    self.submissions.cancel(job, "", turn)
            self._publisher.summarize(state, turn)
            return
        for job in state.jobs:
            if is_sent(job):
                with turn.isolated(state):  # its tags may name a platform that there is not
                    self.submissions.look_after(state, job, turn)
        search, state = self._search(state), self._with_deleted(state)
        self._end(state, search, turn)
        self._publisher.summarize(state, turn)
        for trial, why in search.hopeless(state.trials):
            for job in trial.jobs:
                if job.status in OPEN and not job.tags.get(PRUNED):
                    self.submissions.cancel(job, why, turn)
        if state.id in turn.over or self._paused(state, turn):
            return
        jobs = self._complete(state, search, turn)
        waiting = [job for job in jobs if waits_for_a_machine(job)]
        self._publisher.tell(state, self.submissions.place(state, waiting, turn), turn)

    def _with_deleted(self, state: SweepState) -> SweepState:
        """Return a sweep with those trials as KILLED that lack a run since somebody deleted it."""
        deleted = self._deleted.get(state.id, {})
        trials = {each.number: each for each in state.trials}
        for at, trial in list(deleted.items()):
            there = trials.setdefault(at, trial)
            if there is trial:
                self._gone.add(trial.run_id)
            elif trial.run_id in self._gone:  # it was restored
                self._gone.remove(trial.run_id)
                del deleted[at]
            elif len(there.jobs) < len(state.sweep.folds):  # else a fold was restored
                trials[at] = replace(there, status="KILLED")
        return replace(state, trials=[trials[at] for at in sorted(trials)])

    def _search(self, state: SweepState) -> Search:
        if state.id not in self._searches:
            self._searches[state.id] = Search.of(state.sweep)
        return self._searches[state.id]

    def _end(self, state: SweepState, search: Search, turn: Turn) -> None:
        """Note that a sweep is over, if nothing is left of it to do."""
        wanted = len(state.sweep.folds) or 1
        over = bool(state.trials) and search.exhausted(state.trials)
        over = over and not any(is_sent(each) or waits_for_a_machine(each) for each in state.jobs)
        over = over and all(
            len(trial.jobs) >= wanted or trial.status in ("KILLED", "PRUNED")
            for trial in state.trials
        )
        if over:
            finished = any(trial.status == "FINISHED" for trial in state.trials)
            turn.over[state.id] = "FINISHED" if finished else "FAILED"

    def _paused(self, state: SweepState, turn: Turn) -> bool:
        told = state.tags.get(PAUSED, "")
        if not told and (told := failing(state) or _blind(state)):
            self._lease.require()
            children.set_tags(self._uri, state.id, {PAUSED: told, TOLD: told})
            turn.done.append(f"sweep {state.name} is paused: {told}")
        if told:
            turn.waiting[state.id] = told
        return bool(told)

    def _complete(self, state: SweepState, search: Search, turn: Turn) -> list[Job]:
        """Make the jobs that a turn which was broken off left out, and those of new trials."""
        jobs = list(state.jobs)
        for trial in state.trials:
            lacks = len(trial.jobs) < len(state.sweep.folds)
            if lacks and trial.status not in ("KILLED", "PRUNED"):
                jobs += self._make(state, trial.number, trial.point, turn, trial.jobs)
        if search.exhausted(state.trials):
            return jobs  # nobody needs to know what room there is
        room = self._room(state, jobs)
        number = next_number(state.trials)
        wanted = -(-room // max(1, len(state.sweep.folds)))
        if wanted > 0:
            for at, point in enumerate(search.ask(state.trials, min(wanted, _AT_A_TIME)), number):
                jobs += self._make(state, at, point, turn)
        return jobs

    def _room(self, state: SweepState, jobs: Sequence[Job]) -> int:
        """Return how many more jobs could begin now; one at least, so that it is said why none."""
        waiting = sum(map(waits_for_a_machine, jobs))
        sent = sum(map(is_sent, jobs))
        free = sum(each.sessions for each in self._hosts.offered(state) if not each.problem)
        if state.sweep.at_once is not None:
            free = min(free, state.sweep.at_once - sent)
            if sent + waiting >= state.sweep.at_once:
                return 0
        return max(free - waiting, 0 if waiting or sent else 1)

    def _make(
        self,
        state: SweepState,
        number: int,
        point: Mapping[str, str],
        turn: Turn,
        there: Sequence[Job] = (),
    ) -> list[Job]:
        self._lease.require()
        known = {job.run_id for job in there}
        runs = children.make_trial(self._uri, state, number, point)
        own = trial_id(state.id, number)
        if not all(children.is_of(run, number, {state.id, own}) for run in runs):
            gone = Trial(number, own, point, (), status="KILLED")
            self._deleted.setdefault(state.id, {})[number] = gone
            turn.done.append(f"{state.name} trial {number}: a run of it was deleted, it is left")
            return []
        made = [children.job_of(number, run) for run in runs if run.info.run_id not in known]
        what = ", ".join(f"{key}={value}" for key, value in point.items())
        turn.done.append(f"{state.name} trial {number}{what and f': {what}'}")
        return made


def failing(state: SweepState) -> str:
    """Return why a sweep is to be paused: its jobs fail, and none has succeeded; "" if not so."""
    since = number(state.tags, RESUMED) or 0.0
    failures: list[tuple[float, str]] = []
    for job in state.jobs:
        ended = job.ended_ms or 0
        if job.status == "FINISHED" and ended > since:
            return ""
        legs = legs_of(job.tags)
        times = [1000.0 * (leg.ended or 0) for leg in legs if leg.how == "failed"]
        noted = legs and legs[-1].how == "failed"  # by its own machine
        if job.status == "FAILED" and not job.tags.get(JOB_ENDED) and not noted:
            times.append(float(ended))
        failures += [(each, job.run_id) for each in times if each > since]
    if len(failures) < _FAILURES:
        return ""
    _, last = max(failures)
    return (
        f"jobs failed {len(failures)} times and none has succeeded, the last one {last}: see "
        f"`kaggleops logs {last}`, then `kaggleops resume {state.id}` or "
        f"`kaggleops cancel {state.id}`"
    )


def _blind(state: SweepState) -> str:
    since = number(state.tags, RESUMED) or 0.0
    why = blind(state.sweep, state.trials, since)
    return why and (
        f"{why}: `kaggleops cancel {state.id}` and sweep again with a --metric that is logged, or "
        f"`kaggleops resume {state.id}`"
    )
