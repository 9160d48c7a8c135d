"""What is assumed of several services alike: each list says what breaks without it."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from kaggleops.first_contact.assumption import NotCheckedError, expect
from kaggleops.first_contact.job import BEGINS, ENDS, HOURS, OUTPUT, Observed


def of_finished(job: Observed, holds: object, seen: str) -> str:
    """Return what was seen if it is as assumed; a job that did not finish disproves nothing."""
    if not holds and job.status != "FINISHED":
        raise NotCheckedError(f"{seen}; the run is {job.status}")
    return expect(holds, seen)


def log_is_live(job: Observed) -> str:
    """What a job prints can be read while it runs."""
    came = any(BEGINS in line for line in job.live)
    return of_finished(job, came, f"{len(job.live)} lines came before it ended")


def log_is_whole(job: Observed) -> str:
    """In the end the log has each line once, from the first to the last, and those of errors."""
    texts = (BEGINS, "a line of errors", ENDS)
    counts = [sum(text in line for line in job.lines) for text in texts]
    seen = f"begin, errors, end: {counts}, of {len(job.lines)} lines"
    return of_finished(job, counts == [1, 1, 1], seen)


def python_new_enough(job: Observed) -> str:
    """The image's Python is 3.11 or newer, and papermill executes the notebook."""
    python, there = job.note("python"), job.note("modules")["papermill"]
    new = tuple(map(int, python.split(".")[:2])) >= (3, 11)
    return expect(new and there, f"Python {python}, papermill: {there}")


def session_end_known(job: Observed) -> str:
    """The time that the job is told is left is within what was asked for."""
    left = job.note("seconds_left")
    seen = "nothing is known" if left is None else f"{left / 60:.0f} of {HOURS * 60:.0f} min left"
    return expect(left is not None and 0 < left <= HOURS * 3600, seen)


def signs_in(job: Observed, *ways: str) -> str:
    """Return how the notebook says that it signed in, if it did (in one of these ways)."""
    lines = [line.partition("Sign-in")[2].strip() for line in job.lines if "Sign-in  " in line]
    told = "; ".join(lines)
    if not told and (job.status == "KILLED" or not job.lines):
        raise NotCheckedError(f"it did not get so far; the run is {job.status}")
    return expect(told and told.startswith(ways or ("",)), told or "it does not sign in")


def has_folder(job: Observed, path: str) -> str:
    """Return where the job may leave files, if it is this folder and can be written."""
    folder, writable = job.note("folder"), job.note("folder_writable")
    return expect(folder.endswith(path) and writable, f"{folder}, writable: {writable}")


def output_came(job: Observed) -> str:
    """Return what the job left on the platform, if its file came as it was written."""
    seen = ", ".join(job.files) or "nothing came"
    return of_finished(job, job.files.get(OUTPUT) == b"left by the job\n", seen)


def accelerator_is(job: Observed, asked: str, known: Mapping[str, str]) -> str:
    """Return what the job found, if it is what is known to come for the name that was asked for."""
    found = job.note("accelerator")
    if asked not in known:
        raise NotCheckedError(f"nothing is assumed of {asked}: it is {found or 'none'}")
    return expect(found == known[asked], f"{found or 'none'} for {asked or 'none'}")


def ended(job: Observed, word: str) -> str:
    """Return how a job ended, if the platform says that word and its run is FINISHED."""
    seen = f"the platform says {job.last and job.last.said}, the run is {job.status}"
    good = (job.last and job.last.said) == word and job.status == "FINISHED"
    return expect(good, "; ".join([seen, *(() if good else job.problems)]))


def in_order(job: Observed, *order: str) -> str:
    """Return the words for a job's states, if they are known and came in that order."""
    places = [order.index(each) if each in order else -1 for each in job.said]
    known = -1 not in places and places == sorted(places)
    return of_finished(job, known, ", ".join(job.said) or "none")


def one_wins(create: Callable[[int], int]) -> str:
    """Return the statuses of eight creations of one object at once, if just one succeeded."""
    start = threading.Barrier(8)

    def begin(number: int) -> int:
        start.wait()
        return create(number)

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(begin, range(8)))
    if statuses == [412] * 8:  # the one that won was asked again
        raise NotCheckedError("an answer was lost on its way")
    return expect(statuses == [200] + [412] * 7, f"{statuses}")
