"""The dashboards, in the order in which they are looked at."""

from dashboards.boards import agents, api, jobs, overview, sink, slo, sources

BOARDS = (overview.BOARD, jobs.BOARD, agents.BOARD, sources.BOARD, sink.BOARD, api.BOARD, slo.BOARD)
