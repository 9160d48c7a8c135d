"""What is shown of a run's metrics."""

from kaggleops.reports.charts import headline


def test_results_are_told_from_what_only_accompanies_them() -> None:
    logged = {"loss": 0.3, "jaccard": 0.7, "system/cpu": 1.0, "epoch": 2.0}
    assert headline(logged) == [("jaccard", 0.7)]
    assert headline({"loss": 0.3, "epoch": 2.0}) == [("loss", 0.3)]
    assert headline({}) == []
