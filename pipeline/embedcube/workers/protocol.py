"""What job scripts, parents and ranks say to each other: environment variables, store keys, signals, time-outs."""

import signal

MET = "met"
"""The key of the store that counts the ranks which have agreed on everything."""

IN_HAND = "in hand"
"""The key of the store, with a rank's number, of the recipes that it has drawn last."""

END_TIME = "EMBEDCUBE_END_TIME"
"""The environment variable by which a job script says when it must have ended (seconds since 1970)."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Any of them: finish what is in hand, record it, exit 75. Batch systems differ in which they send."""

MEETING_S = 600.0
"""for all parents of a task, and then for all of its ranks, to start and meet"""

LAUNCHER = "EMBEDCUBE_LAUNCHER"
"""The environment variable by which a job script says that parents meet by MPI."""

HOST_SUFFIX = "EMBEDCUBE_HOST_SUFFIX"
"""The one by which it says what makes a node's name that of its fast network."""

LEFT, ABANDONED = "left", "abandoned"
"""Keys of the store: parents whose ranks have ended, and those that lost a rank before all had met."""

FAILED = "failed"
"""The key of the store, with a parent's number, of why a rank of its node failed."""
