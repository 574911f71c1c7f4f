"""Cases of a driver: each has an identity, what it is read from and what it does; a line is printed for each, then a summary.

A case returns what it saw (a short text or None) or raises `Failed`. Cases run in threads, and are printed in their order.
"""

import concurrent.futures
import sys
import time
import traceback


class Failed(Exception):
    """What was expected, and what came."""


def expect(condition, message):
    if not condition:
        raise Failed(message)


class Case:
    def __init__(self, name, source, title, run):
        self.name, self.source, self.title, self.run = name, source, title, run


class Suite:
    """The cases of one driver, in the order in which they were declared."""

    def __init__(self):
        self.cases = []

    def case(self, name, source, title):
        def declare(run):
            self.cases.append(Case(name, source, title, run))
            return run

        return declare

    def run(self, label, make, only=None, threads=8):
        """Runs all cases with what `make()` gives each; False where one failed."""
        chosen = [case for case in self.cases if not only or case.name.startswith(only)]
        begun = time.monotonic()
        failed = []
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            outcomes = pool.map(lambda case: _outcome(case, make), chosen)
            for case, (ok, seen) in zip(chosen, outcomes):
                if not ok:
                    failed.append(case.name)
                line = f"{'ok  ' if ok else 'FAIL'}  {label}  {case.name:<16} {case.source:<18} {case.title}"
                print(f"{line}  [{seen}]" if seen else line, flush=True)
        return summary(label, len(chosen), failed, time.monotonic() - begun)


def _outcome(case, make):
    try:
        return True, case.run(make())
    except Failed as failure:
        return False, str(failure)
    except Exception as error:  # A case that breaks has failed; the others go on.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return False, f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})"


def summary(label, count, failed, seconds):
    """The line that `tests/e2e/conformance.rs` looks for."""
    print(f"summary  {label}  {count} cases, {count - len(failed)} passed, {len(failed)} failed, {seconds:.1f} s", flush=True)
    if failed:
        print(f"failed  {label}  {' '.join(failed)}", flush=True)
    return not failed


def end(*passed):
    sys.exit(0 if all(passed) else 1)
