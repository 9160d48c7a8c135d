"""The jobs of a bucket's sweeps on their platforms: placed, handed over, asked about, ended.

Whether a job has reached its platform is asked before anything else becomes of it: what is handed
over twice is one job, found by its run's id.
"""

from collections.abc import Sequence

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.local import Job as LocalJob
from kaggleops.bucket import BucketError
from kaggleops.campaign import children
from kaggleops.campaign.hosts import Hosts
from kaggleops.campaign.money import closed, refused
from kaggleops.campaign.placement import Busy, Decision, place, waits
from kaggleops.campaign.plan import asked, at_work, budget_of, granted
from kaggleops.campaign.state import SweepState, is_sent
from kaggleops.campaign.sweep import Job
from kaggleops.campaign.turn import Context, Turn
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.mlruns.liveness import LOST
from kaggleops.tags import JOB_ENDED, PRUNED, SUBMITTED_TO

_ASK_AGAIN = 600.0  # seconds between two questions to a platform about one silent job


class Submissions:
    """What was handed to the platforms, of all sweeps of a bucket. Not thread-safe."""

    def __init__(self, context: Context, hosts: Hosts) -> None:
        self._uri, self._lease, self._clock = context.uri, context.lease, context.clock
        self._hosts = hosts
        # jobs that are known to have reached their platform, and when each was asked about
        self._handed: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._here: dict[str, LocalJob] = {}  # on this machine

    def ended_here(self) -> bool:
        """Tell whether a job on this machine has ended since it was asked last."""
        alive = {id: job for id, job in self._here.items() if job.alive}
        ended, self._here = len(alive) < len(self._here), alive
        return ended

    def place(self, state: SweepState, waiting: Sequence[Job], turn: Turn, at: str = "") -> str:
        """Hand jobs to the platforms that fit them best; return what the others wait for.

        With `at`, to that one alone.
        """
        if not waiting:
            return ""
        now, jobs, ids = self._clock.now(), state.jobs, {job.run_id for job in waiting}
        sent = [job for job in jobs if is_sent(job) and job.run_id not in ids]
        limit = state.sweep.at_once
        allowed = list(waiting) if limit is None else list(waiting)[: max(0, limit - len(sent))]
        before = turn.granted.get(state.id, 0.0)
        budget = budget_of(state.sweep, jobs, allowed, now, before)
        offers = [each for each in self._hosts.offered(state) if at in ("", each.backend)]
        busy = [each for each in self._busy(turn) if each.run_id not in ids]
        decisions = place(asked(state.sweep, jobs, allowed), offers, busy, budget, now)
        if not at:  # else it counts as sent already
            turn.decisions |= {each.run_id: each for each in decisions}
        if any(each.over_budget for each in decisions):
            turn.over_budget.add(state.id)
        by_id = {job.run_id: job for job in allowed}
        for decision in decisions:
            if decision.offer is not None:
                self._submit(state, by_id[decision.run_id], decision, turn)
        problems = {each.problem for each in offers if each.problem}
        return waits(decisions) or "; ".join(sorted(problems)) * (not decisions)

    def look_after(self, state: SweepState, job: Job, turn: Turn) -> None:
        """Ask a platform about a job of which nobody knows better, and end what it says is over."""
        name = job.tags[SUBMITTED_TO]
        backend = self._hosts.backend(name)
        begun = job.status == "RUNNING"
        if begun:
            self._handed.add(job.run_id)
        known = job.run_id in self._handed
        pause = min(_ASK_AGAIN, 10 * backend.ask_every)
        now = self._clock.steady()
        asked_at = self._asked_at.setdefault(job.run_id, now if known else float("-inf"))
        if (begun and backend.ask_every) or now - asked_at < pause or self._hosts.rests(name):
            return
        self._asked_at[job.run_id] = now
        try:
            answer = backend.state(job.tags)
        except KeyError as error:  # somebody deleted a tag
            problem = f"it has no tag {error}"
            raise KaggleOpsError(f"looking for the job of run {job.run_id}", problem) from error
        except KaggleOpsError as error:
            if known:
                self._hosts.rest(name, turn, error)
                return
            # It may never have got there: handing it over again finds it, or sends it if there is
            # room, without counting itself.
            self._hosts.running[name] -= 1
            self.place(state, [job], turn, name)
            self._hosts.running[name] += 1
            return
        self._hosts.answered(name)
        if answer is None and job.status == LOST:
            self._lease.require()
            why = "lost: nothing more was heard from its machine"
            children.set_tags(self._uri, job.run_id, {JOB_ENDED: why})
            children.end(self._uri, job.run_id, "FAILED")
            turn.done.append(f"run {job.run_id} is lost: no platform can say what became of it")
            return
        if answer is not None and answer.ended:
            self._lease.require()
            ended = RemoteRun(backend, self._uri, job.run_id).settle(answer)
            turn.done.append(f"{_called(state, job)} ended on {name}: {answer} ({ended})")
            if more := closed(job.tags, self._clock.now()):
                children.set_tags(self._uri, job.run_id, more)
            return
        self._handed.add(job.run_id)
        if answer is not None and backend.ask_every == 0:
            self._notice_end(job.run_id)

    def cancel(self, job: Job, why: str, turn: Turn) -> None:
        """End a job: one that was pruned, and `why`; "" if its sweep was cancelled."""
        self._lease.require()
        children.cancel_job(self._uri, job.run_id, {PRUNED: why} if why else {})
        turn.done.append(f"ended run {job.run_id}: {why or 'its sweep was cancelled'}")

    def _submit(self, state: SweepState, job: Job, decision: Decision, turn: Turn) -> None:
        offer, now = decision.offer, self._clock.now()
        assert offer is not None  # noqa: S101 - it goes somewhere
        if self._hosts.rests(offer.backend):
            return
        self._lease.require()
        backend = self._hosts.backend(offer.backend)
        config = backend.for_session(
            self._hosts.config(state, offer.backend), offer, decision.hours, decision.cost
        )
        tags = granted(decision, job.tags, now)
        turn.granted[state.id] = turn.granted.get(state.id, 0.0) + decision.cost
        try:
            sent = children.submit(backend, self._uri, state, job.run_id, config, tags)
        except RefusedError as error:
            if taken_back := refused({**job.tags, **tags}):
                children.set_tags(self._uri, job.run_id, taken_back)
            self._hosts.offers.refused(offer.backend, error.problem)
            turn.problems.append(f"{_called(state, job)}: {error.problem}")
            turn.stale = True
            return
        except BucketError:
            raise
        except UsageError as error:
            turn.problems.append(f"{_called(state, job)}: {error}")
            self._hosts.rest(offer.backend, turn, error)
            return
        except KaggleOpsError as error:
            if isinstance(explained(error.__cause__), BucketError):
                raise
            # Whether it got there is asked in the next turn.
            self._hosts.rest(offer.backend, turn, error)
            turn.stale = True
            return
        if sent is None:
            turn.stale = True  # it is not what it was
            return
        self._hosts.answered(offer.backend)
        self._handed.add(job.run_id)
        self._asked_at[job.run_id] = self._clock.steady()
        self._hosts.running[offer.backend] += 1
        if backend.ask_every == 0:
            self._notice_end(job.run_id)
        turn.done.append(f"{_called(state, job)}: {decision.why}")

    def _busy(self, turn: Turn) -> list[Busy]:
        """Return what has a machine, of all sweeps, and what was placed in this turn."""
        busy = [
            one
            for each in turn.sweeps
            for one in at_work(
                each.jobs, [job for job in each.jobs if is_sent(job)], self._clock.now()
            )
        ]
        return [*busy, *filter(None, (each.busy for each in turn.decisions.values()))]

    def _notice_end(self, run_id: str) -> None:
        """Let a turn begin as soon as a job on this machine ends."""
        if (job := LocalJob.of(run_id)).exists:
            self._here.setdefault(run_id, job)


def _called(state: SweepState, job: Job) -> str:
    fold = f" fold {job.fold}" if job.fold else ""
    return f"{state.name} trial {job.number}{fold}"
