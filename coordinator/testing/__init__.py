"""For tests of what is built on the coordinator: workers in memory that share a store, a clock to advance.

async with testing.cluster(workers=2) as cluster:
    one, other = cluster.workers

The conformance suites of the ports are in `coordinator.testing.conformance`.
"""

from coordinator.testing.clock import Clock
from coordinator.testing.cluster import Cluster, cluster

__all__ = ["Clock", "Cluster", "cluster"]
