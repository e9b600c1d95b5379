"""The cases: each a sentence and what shows it. A case is played in both dialects unless it names one."""
CASES = []


def case(sentence, dialects=("delta", "sotw")):
    def add(check):
        CASES.append((sentence, dialects, check))
        return check
    return add


def same(got, expected, what="it"):
    if got != expected:
        raise AssertionError(f"{what} is {got!r}, not {expected!r}")


def true(value, what):
    if not value:
        raise AssertionError(what)
