"""What Prometheus scrapes of a server."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from t5x_lite.serving.engine import Engine

_SECONDS = (.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
  """Counts of requests by path and status, their times, and what the engine did."""

  def __init__(self, engine: Engine):
    self._engine, self._registry = engine, CollectorRegistry()
    self.requests = Counter('t5x_lite_requests', 'requests that were answered',
                            ['path', 'status'], registry=self._registry)
    self.first_token = Histogram('t5x_lite_time_to_first_token_seconds',
                                 'from the body of a request to the first text of its answer',
                                 buckets=_SECONDS, registry=self._registry)
    self.seconds = Histogram('t5x_lite_request_seconds', 'from the body of a request to the end',
                             buckets=_SECONDS, registry=self._registry)
    self._registry.register(self)

  def collect(self):
    """What the engine says of itself, as Prometheus's collectors do."""
    engine, counts = self._engine, self._engine.counts
    yield GaugeMetricFamily('t5x_lite_slots', 'slots of each model', engine.slots.slots)
    yield GaugeMetricFamily('t5x_lite_running_slots', 'slots that are taken', engine.running)
    yield GaugeMetricFamily('t5x_lite_queued_requests', 'requests that wait', engine.queued)
    yield CounterMetricFamily('t5x_lite_prompt_tokens', 'tokens of prompts that were read',
                              counts.prompt_tokens)
    yield CounterMetricFamily('t5x_lite_written_tokens', 'tokens that were written',
                              counts.written_tokens)

  def text(self) -> bytes:
    """In the format of Prometheus."""
    return generate_latest(self._registry)
