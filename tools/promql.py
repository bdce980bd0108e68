"""Expressions over the instances that were chosen on the dashboard, in PromQL."""

#: The instances that were chosen on the dashboard.
CHOSEN = 'job="$job",instance=~"$instance"'


def at(metric: str, where: str = "") -> str:
    """The series of the chosen instances."""
    return f"{metric}{{{CHOSEN}{',' if where else ''}{where}}}"


def per_second(metric: str, by: str = "", where: str = "") -> str:
    """How fast a counter grows, added up over everything but `by`."""
    return f"sum by ({by}) (rate({at(metric, where)}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share:g}, {per_second(f'{metric}_bucket', f'{by}, le' if by else 'le', where)})"


def mean(metric: str) -> str:
    """The mean of a histogram."""
    return f"{per_second(f'{metric}_sum')} / {per_second(f'{metric}_count')}"
