"""Opens the Dask client of a campaign as `consolidate` does, prints the scheduler's address, and holds it.

Usage: python holding.py CAMPAIGN.yaml SECONDS
"""

import sys
import time
from pathlib import Path

from embedcube.campaign.resolve import open_campaign
from embedcube.consolidate.dask import dask_client

if __name__ == "__main__":
    with dask_client(*open_campaign(Path(sys.argv[1]))) as client:
        client.wait_for_workers(1, timeout=120)
        print(client.scheduler.address, flush=True)
        time.sleep(float(sys.argv[2]))
