"""Ask the gateway in this container how it is: `healthcheck.py live` or `ready`. Exit code 0 if it is well."""

import http.client
import os
import sys

port = os.environ.get("AGENTLINE_PORT") or os.environ.get("PORT") or "8080"
try:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3)
    connection.request("GET", f"/api/health/{sys.argv[1]}")
    sys.exit(connection.getresponse().status != 200)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"the gateway does not answer: {type(error).__name__}")
