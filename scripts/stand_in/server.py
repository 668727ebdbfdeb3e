"""The server's process around stand-in workers; its one argument is a JSON object of settings.

python -m stand_in.server '{"port": 0, "data_dir": "data", "keys": ["…"], "engine": {}}'
"""

from __future__ import annotations

import json
import sys

from depthflux.errors import DepthFluxError
from depthflux.logs import log_to_standard_error
from depthflux.server.keys import Keys
from depthflux.server.serving import end_process, serve
from depthflux.server.settings import ServerSettings
from depthflux.settings import resolve_settings

WORKER = (sys.executable, "-m", "stand_in.painter")


def main() -> None:
    """Serve until told to end."""
    given = json.loads(sys.argv[1])
    keys, engine = Keys(given.pop("keys", [])), given.pop("engine", {})
    with log_to_standard_error():
        try:
            serve(
                ServerSettings(**given),
                resolve_settings(None, arguments=engine).values,
                keys=keys,
                target="stand-in",
                given=engine,
                on_listening=lambda address: print(address, flush=True),
                command=WORKER,
            )
        except DepthFluxError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        end_process()


if __name__ == "__main__":
    main()
