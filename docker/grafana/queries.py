"""PromQL that the dashboards share, for the instances and models that are chosen above them."""

from __future__ import annotations

from docker.grafana.panels import choice

OURS = 'job="asr", instance=~"$instance"'
CHOSEN = f'{OURS}, model=~"$model"'
MODEL = choice("model", 'label_values(asr_model_state{job="asr"}, model)')
INSTANCE = choice("instance", 'label_values(up{job="asr"}, instance)')
LANE = "{{model}} {{profile}}"


def rate(metric: str, by: str = "model", where: str = CHOSEN) -> str:
    """A counter's rise a second, summed over all labels but `by`."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def total(metric: str, by: str = "model", where: str = CHOSEN) -> str:
    """A gauge, summed over all labels but `by`."""
    return f"sum by ({by}) ({metric}{{{where}}})"


def quantile(share: float, metric: str, by: str = "model", where: str = CHOSEN) -> str:
    """The value of a histogram that this share of its observations do not exceed."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'{by}, le', where)})"


def mean(metric: str, by: str = "model") -> str:
    """The mean of a histogram's observations."""
    return f"{rate(f'{metric}_sum', by)} / ({rate(f'{metric}_count', by)} > 0)"
