"""Results as Hypothesis makes them."""

from hypothesis import strategies as st

from bench.results.schema import Metric, Result

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
FIGURES = st.floats(1e-9, 1e9, allow_nan=False, allow_infinity=False)
METRICS = st.builds(
    Metric,
    NAMES,
    st.sampled_from(["s", "B", "1", "messages/s"]),
    st.sampled_from(["higher", "lower", "neither"]),
    st.booleans(),
)


@st.composite
def results(draw, figures=FIGURES):
    result = Result(draw(NAMES), draw(NAMES), machine={"python": draw(NAMES)}, partial=draw(st.booleans()))
    metrics = draw(st.lists(METRICS, min_size=1, max_size=3, unique_by=lambda metric: metric.name))
    for workload in draw(st.lists(NAMES, max_size=3, unique=True)):
        for subject in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
            for _ in range(draw(st.integers(1, 5))):
                result.record(workload, subject, {metric: draw(figures) for metric in metrics})
    for note in draw(st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=2)):
        result.note(*note)
    return result


def measured(rounds, subject="reactor", better="lower", unit="s", name="CPU", workload="64 B", case="echo"):
    """A result with one series."""
    result = Result(case, "python -m bench echo")
    for figure in rounds:
        result.record(workload, subject, {Metric(name, unit, better, compared=True): figure})
    return result
